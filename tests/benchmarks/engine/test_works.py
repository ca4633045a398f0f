from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.engine import networks, works
from benchmarks.engine.job import INFER, INT8, TRAIN, Job
from benchmarks.engine.ours import OPTIMIZERS
from emberfleet.core.graph import Graph


def test_the_networks_have_their_known_sizes() -> None:
    sizes = {
        name: networks.count_parameters(networks.build(shape))
        for name, shape in (
            ("medium", networks.MEDIUM), ("sq32", networks.SQ32), ("sq224", networks.SQ224),
        )
    }  # fmt: skip
    assert sizes == {"medium": 341_962, "sq32": 730_570, "sq224": 1_235_496}


def test_sq224_is_the_published_network() -> None:
    from emberfleet.train.models import squeezenet_1_1

    ours, published = networks.build(networks.SQ224), squeezenet_1_1(1000)
    assert list(ours.parameters.values()) == list(published.parameters.values())
    assert ours.shapes[ours.output.name] == published.shapes[published.output.name]


def test_a_training_is_written_as_every_library_reads_it(tmp_path: Path) -> None:
    work = works.WORKS["train small"]
    job = Job(TRAIN, str(works.write_files(work, tmp_path)), "", 1, optimizer=work.optimizer)
    graph = Graph.from_json(Path(job.path("graph.json")).read_bytes())
    graph.check(job.weights)
    assert job.array("x").shape == (32, 32, 32, 3)
    assert job.array("labels").shape == (32,)
    assert job.net["classes"] == 10


def test_both_precisions_of_an_inference_share_their_files(tmp_path: Path) -> None:
    first = works.write_files(works.WORKS["infer sq32"], tmp_path)
    assert works.write_files(works.WORKS["infer sq32 int8"], tmp_path) == first
    assert works.write_files(works.WORKS["train sq32"], tmp_path) != first


def test_the_int8_file_is_the_network_that_the_reference_runs(tmp_path: Path) -> None:
    module = pytest.importorskip("ai_edge_litert.interpreter")
    job = Job(INFER, str(works.write_files(works.WORKS["infer sq32 int8"], tmp_path)), "", 1, INT8)
    interpreter = module.Interpreter(job.path("int8.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], job.array("qx"))
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = job.array("qy")
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert len(np.unique(expected)) > 3


def test_int8_stays_near_the_float_network(tmp_path: Path) -> None:
    from emberfleet.core.lowering import quantize

    job = Job(INFER, str(works.write_files(works.WORKS["infer sq32"], tmp_path)), "", 1)
    network = quantize(Graph.from_json(Path(job.path("graph.json")).read_bytes()), job.weights)
    y = job.array("y")
    error = np.abs(network.output_tensor.params.dequantize(job.array("qy")) - y).max() / np.abs(y).max()
    assert error < 0.05


def test_every_work_that_predicts_has_no_optimizer_and_every_training_has_one() -> None:
    for work in works.WORKS.values():
        assert (work.optimizer in OPTIMIZERS) == (work.kind == TRAIN)
