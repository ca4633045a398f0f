from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from emberfleet.converters.tflite.int8_writer import draw_int8, write_tflite_int8
from emberfleet.converters.tflite.model import OperatorKind
from emberfleet.core.arrays import Float32, Int8
from emberfleet.core.graph import Conv2D, GlobalAveragePool, Graph, Input, MaxPool, Relu, Reshape
from emberfleet.core.integer import IntegerConv, IntegerNetwork, quantize
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.train.calibration import calibrate
from emberfleet.train.models import small_squeezenet
from tests.converters.plain_int8 import run_plain
from tests.converters.tflite.interpreter import run_tflite
from tests.converters.tflite.random_graphs import random_graphs
from tests.core.networks import bypass_network, random_tensors

OTHER_RUNTIME = "EMBERFLEET_TFLITE_RUNTIME_PYTHON"
RUN_ELSEWHERE = """
import sys, numpy as np
from tflite_runtime.interpreter import Interpreter, OpResolverType
folder, reference = sys.argv[1], sys.argv[2] == "reference"
kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
it = Interpreter(folder + "/model.tflite", experimental_op_resolver_type=kind)
x = np.load(folder + "/x.npy")
index = it.get_input_details()[0]["index"]
it.resize_tensor_input(index, x.shape)
it.allocate_tensors()
it.set_tensor(index, x)
it.invoke()
np.save(folder + "/y.npy", it.get_tensor(it.get_output_details()[0]["index"]))
"""


def calibrated(graph: Graph, seed: int = 0) -> IntegerNetwork:
    """Random weights, ranges as observed on random images.

    A range is at least 0.1 wide: an activation that is always zero would get a step so small that
    XNNPACK refuses its ratio to the next one.
    """
    tensors: dict[str, Float32] = random_tensors(graph, seed)
    images = np.random.default_rng(seed).random((4, *graph.input.shape), dtype=np.float32)
    ranges = calibrate(graph, tensors, images)
    widened = {
        name: r if r[1] - r[0] > 0.1 else r + np.array([0, 0.1], np.float32) for name, r in ranges.items()
    }
    return quantize(graph, {**tensors, **widened})


def random_images(network: IntegerNetwork, count: int, seed: int = 1) -> Int8:
    shape = (count, *network.input_tensor.shape)
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def kinds(network: IntegerNetwork) -> list[OperatorKind]:
    return [op.kind for op in draw_int8(network).operators]


NETWORKS = {
    "bypass": lambda: bypass_network(),
    "fourteen positions": lambda: bypass_network(positions=14, classes=37, side=15),
    "small": lambda: small_squeezenet(width=0.5, bypass=True),
    "colour, halved at the start": lambda: small_squeezenet(size=48, channels=3, width=0.5, positions=3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_reference_kernels_give_the_same_bits(name: str) -> None:
    network = calibrated(NETWORKS[name]())
    q = random_images(network, 3)
    want = run_plain(network, q)
    assert want.std() > 4
    np.testing.assert_array_equal(run_tflite(write_tflite_int8(network), q, reference=True), want)
    np.testing.assert_array_equal(NumpyBackend().integer_predictor(network, 3).run_integer(q), want)


@pytest.mark.parametrize("name", NETWORKS)
def test_xnnpack_is_within_one_step(name: str) -> None:
    network = calibrated(NETWORKS[name]())
    q = random_images(network, 3)
    found = run_tflite(write_tflite_int8(network), q, reference=False)
    assert np.abs(found.astype(int) - run_plain(network, q)).max() <= 1


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs())
def test_random_graphs_give_the_same_bits_and_one_step_with_xnnpack(graph: Graph) -> None:
    network = calibrated(graph)
    q = random_images(network, 2)
    data, want = write_tflite_int8(network), run_plain(network, q)
    np.testing.assert_array_equal(run_tflite(data, q, reference=True), want)
    assert np.abs(run_tflite(data, q, reference=False).astype(int) - want).max() <= 1


def _padded_pool(relu: bool) -> IntegerNetwork:
    """A pool whose padding is neither SAME nor VALID, over values that do or do not start at zero."""
    activation = (Relu("relu", ("conv",)),) if relu else ()
    graph = Graph(
        (
            Input("input", (), (6, 6, 1)),
            Conv2D("conv", ("input",), 2),
            *activation,
            MaxPool("pool", ("relu" if relu else "conv",), (3, 3), (1, 1), (2, 0, 1, 2)),
            GlobalAveragePool("mean", ("pool",)),
        )
    )
    return calibrated(graph)


def test_a_pool_after_a_relu_is_padded_with_its_zero_point() -> None:
    assert OperatorKind.PAD in kinds(_padded_pool(relu=True))


def test_a_pool_of_signed_values_is_padded_with_the_lowest() -> None:
    network = _padded_pool(relu=False)
    assert OperatorKind.PADV2 in kinds(network)
    q = random_images(network, 2)
    found = run_tflite(write_tflite_int8(network), q, reference=True)
    np.testing.assert_array_equal(found, run_plain(network, q))


def test_the_small_model_needs_no_padding_operator() -> None:
    assert not {OperatorKind.PAD, OperatorKind.PADV2} & set(kinds(calibrated(small_squeezenet())))


def test_an_image_reshaped_to_a_matrix_runs() -> None:
    graph = Graph(
        (
            Input("input", (), (3, 2, 1)),
            Conv2D("conv", ("input",), 4),
            Reshape("matrix", ("conv",), (6, 4)),
        )
    )
    network = calibrated(graph)
    q = random_images(network, 2)
    found = run_tflite(write_tflite_int8(network), q, reference=True)
    np.testing.assert_array_equal(found, run_plain(network, q))


def test_the_signature_names_both_ends() -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    network = calibrated(bypass_network())
    q = random_images(network, 1)
    runner = interpreter.Interpreter(model_content=write_tflite_int8(network)).get_signature_runner()
    found = runner(image=q)["scores"]
    assert np.abs(found.astype(int) - run_plain(network, q)).max() <= 1


def test_the_same_network_gives_the_same_bytes() -> None:
    assert write_tflite_int8(calibrated(bypass_network())) == write_tflite_int8(calibrated(bypass_network()))


def test_the_small_model_takes_little_more_than_its_weights() -> None:
    network = calibrated(small_squeezenet())
    weights = sum(op.weights.size for op in network.ops if isinstance(op, IntegerConv))
    assert len(write_tflite_int8(network)) < 1.3 * weights


def test_an_older_runtime_gives_the_same_bits(tmp_path: Path) -> None:
    python = os.environ.get(OTHER_RUNTIME)
    if not python:
        pytest.skip(f"{OTHER_RUNTIME} does not name a Python that has tflite-runtime")
    network = calibrated(small_squeezenet(width=0.5, bypass=True))
    q = random_images(network, 3)
    want = run_plain(network, q).astype(int)
    (tmp_path / "model.tflite").write_bytes(write_tflite_int8(network))
    np.save(tmp_path / "x.npy", q)
    for kernels, steps in (("reference", 0), ("xnnpack", 1)):
        subprocess.run([python, "-c", RUN_ELSEWHERE, str(tmp_path), kernels], check=True)
        assert np.abs(np.load(tmp_path / "y.npy").astype(int) - want).max() <= steps
