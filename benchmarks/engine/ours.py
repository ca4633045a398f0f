"""Our engine as a child process: ``python -m benchmarks.engine.ours JSON``; the variant is the backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.engine.job import (
    INT8,
    MOMENTUM,
    RATE,
    TRAIN,
    Inference,
    Job,
    Training,
    check_float,
    check_steps,
    serve_job,
)
from emberfleet.converters.opencl.part import FOLDER, read_opencl_part
from emberfleet.core.errors import DeviceError
from emberfleet.core.graph import Graph
from emberfleet.engine.backend import Backend, TrainingSpec
from emberfleet.engine.optimizers import Adam, Optimizer, Sgd
from emberfleet.engine.selection import choose_backend
from emberfleet.runtime.measuring import Work

VERSION = "own"
OPTIMIZERS: Mapping[str, Optimizer] = {"adam": Adam(), "sgd": Sgd(momentum=MOMENTUM)}


def prepare(job: Job) -> Work:
    """Load the network on the backend."""
    graph = Graph.from_json(Path(job.path("graph.json")).read_bytes())
    engine = choose_backend(job.variant, job.threads)
    return _training(job, graph, engine) if job.kind == TRAIN else _inference(job, graph, engine)


def _training(job: Job, graph: Graph, engine: Backend) -> Work:
    x, labels = job.array("x"), job.array("labels")
    trainer = engine.trainer(graph, TrainingSpec(len(x), OPTIMIZERS[job.optimizer]))
    trainer.load(job.weights)
    return Training(lambda: trainer.step(x, labels, RATE), VERSION)


def _inference(job: Job, graph: Graph, engine: Backend) -> Work:
    """In int8 from quantized pixels to quantized logits: every backend gives the same bits."""
    if job.precision == INT8:
        files = [path for path in Path(job.path(FOLDER)).rglob("*") if path.is_file()]
        parts = {path.relative_to(job.folder).as_posix(): path.read_bytes() for path in files}
        integer, qx = engine.integer_predictor(read_opencl_part(parts), 1), job.array("qx")
        steps = check_steps(integer.run_integer(qx), job.array("qy"), 0)
        return Inference(lambda: integer.run_integer(qx), VERSION, steps)
    predictor, x = engine.predictor(graph, job.weights, 1), job.array("x")
    return Inference(lambda: predictor.run(x), VERSION, check_float(predictor.run(x), job.array("y")))


if __name__ == "__main__":
    serve_job(prepare, DeviceError)
