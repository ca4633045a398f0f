"""What PyTorch's two exporters and tf2onnx write, against ONNX Runtime, on every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from emberfleet.converters.onnx.importer import import_onnx
from emberfleet.core.errors import DeviceError
from emberfleet.engine.selection import choose_backend
from tests.converters.onnx.networks import ALLOWED_ERROR, error, images, ours, run

FILES = sorted((Path(__file__).parents[2] / "golden" / "onnx").glob("*.onnx"))


def for_inference(data: bytes) -> bytes:
    """The same network, batch norm and dropout as in inference: ONNX Runtime does not train."""
    model = onnx.ModelProto.FromString(data)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            del node.output[1:]
            for attribute in node.attribute:
                if attribute.name == "training_mode":
                    attribute.i = 0
        elif node.op_type == "Dropout":
            del node.input[1:]
    return bytes(model.SerializeToString())


@pytest.fixture(params=["numpy", "opencl"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    try:
        choose_backend(name)
    except DeviceError as reason:
        pytest.skip(str(reason))
    return name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_exported_network_gives_the_scores_of_onnx_runtime(path: Path, backend: str) -> None:
    data = path.read_bytes()
    network = import_onnx(data)
    x = images(2, network.graph.input.shape)
    channels_last = "tf2onnx" in path.stem
    given = x if channels_last else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    expected = np.concatenate([run(for_inference(data), image[None]) for image in given])
    assert error(ours(network, x, backend), expected) <= ALLOWED_ERROR


def test_every_golden_file_is_small_and_all_exporters_are_there() -> None:
    assert {path.stem.split("_")[1] for path in FILES} == {"torchscript", "dynamo", "tf2onnx"}
    assert max(path.stat().st_size for path in FILES) < 50_000


def test_batch_norm_of_a_training_export_stays_to_be_retrained() -> None:
    for name, norms in (("eval_15", 0), ("training_18", 20)):
        path = next(path for path in FILES if path.stem == f"resnet_torchscript_{name}")
        network = import_onnx(path.read_bytes())
        assert sum(node.kind == "batch_norm" for node in network.graph.nodes) == norms
        assert len([remark for remark in network.remarks if "exported for training" in remark]) == norms


def test_dropout_of_a_training_export_stays_to_be_retrained() -> None:
    path = next(path for path in FILES if path.stem == "squeezenet_torchscript_training_17")
    assert "dropout" in [node.kind for node in import_onnx(path.read_bytes()).graph.nodes]


def test_what_keras_does_to_its_pixels_becomes_part_of_the_preprocessing() -> None:
    path = next(path for path in FILES if path.stem == "mobilenet_tf2onnx_13")
    network = import_onnx(path.read_bytes())
    assert network.input_scale == pytest.approx((1 / 127.5,) * 3)
    assert network.input_shift == pytest.approx((-1.0,) * 3)
