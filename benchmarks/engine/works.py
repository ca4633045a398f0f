"""The seven works that are compared, and the files by which every library gets the same network.

=======================  ==========================================================================
``net.json``             the fields of `networks.SqueezeNetShape`
``graph.json``           the same as our graph
``weights.safetensors``  every tensor by its name in the graph, ranges included
``x.npy``                the input, ``(N, H, W, C)`` float32
``labels.npy``           of a training
``y.npy``                of an inference: what the numpy backend gives for ``x``
``qx.npy qy.npy``        the same in int8, of the numpy backend
``calibration.npy``      smooth random images, from which the ranges were taken
``*.tflite``             the float and the int8 network, by our own writers
``opencl/``              the int8 network as it lies in a bundle
=======================  ==========================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.engine.job import FLOAT32, INFER, INT8, TRAIN
from benchmarks.engine.networks import MEDIUM, SQ32, SQ32_FOLDED, SQ224, SqueezeNetShape, build
from emberfleet.core.arrays import Array, Float32, Tensors
from emberfleet.core.lowering import quantize
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.tensors import encode_tensors
from emberfleet.train.calibration import calibrate
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.trained import TrainedModel

CALIBRATION_IMAGES = 16
PATCH = 8
"""Pixels of a square of one colour in a calibration image: closer to photos than noise is."""


@dataclass(frozen=True, slots=True)
class EngineWork:
    """One line of the comparison.

    Attributes:
        kind: `TRAIN` or `INFER`.
        shape: The network.
        batch: Images at a time.
        precision: `FLOAT32` or `INT8`.
        optimizer: ``adam`` or ``sgd``, of a training.
    """

    kind: str
    shape: SqueezeNetShape
    batch: int = 1
    precision: str = FLOAT32
    optimizer: str = ""


WORKS: Mapping[str, EngineWork] = {
    "train small": EngineWork(TRAIN, MEDIUM, 32, optimizer="adam"),
    "train sq32": EngineWork(TRAIN, SQ32, 32, optimizer="sgd"),
    "train sq224": EngineWork(TRAIN, SQ224, 8, optimizer="sgd"),
    "infer sq32": EngineWork(INFER, SQ32_FOLDED),
    "infer sq224": EngineWork(INFER, SQ224),
    "infer sq32 int8": EngineWork(INFER, SQ32_FOLDED, precision=INT8),
    "infer sq224 int8": EngineWork(INFER, SQ224, precision=INT8),
}


def write_files(work: EngineWork, folder: Path) -> Path:
    """Write the network of a work below `folder`, once; both precisions of an inference share it."""
    shape = work.shape
    place = folder / f"{work.kind}-{shape.side}-{len(shape.groups[-1])}"
    if place.exists():
        return place
    place.mkdir(parents=True)
    graph = build(shape)
    (place / "net.json").write_text(json.dumps(asdict(shape)), "utf-8")
    (place / "graph.json").write_text(graph.to_json(), "utf-8")
    if work.kind == TRAIN:
        random = np.random.default_rng(0)
        _write_weights(place, initial_tensors(graph, 0, _pixels(shape)))
        np.save(place / "x.npy", random.random((work.batch, *graph.input.shape), np.float32))
        np.save(place / "labels.npy", random.integers(0, shape.classes, work.batch))
    else:
        _write_inference(place, inference_model(shape), smooth_images(shape))
    return place


def inference_model(shape: SqueezeNetShape) -> TrainedModel:
    """A network with random weights and biases, and ranges observed on smooth images."""
    graph, pixels = build(shape), _pixels(shape)
    random = np.random.default_rng(1)
    tensors = initial_tensors(graph, 0, pixels)
    for name, value in tensors.items():
        if name.endswith("/bias"):
            tensors[name] = random.uniform(-0.05, 0.05, value.shape).astype(np.float32)
    tensors |= calibrate(graph, tensors, smooth_images(shape))
    return TrainedModel(graph, tensors, pixels, tuple(str(index) for index in range(shape.classes)))


def smooth_images(shape: SqueezeNetShape) -> Float32:
    """``(16, H, W, C)`` in [0, 1], squares of one colour each."""
    squares = -(-shape.side // PATCH)
    coarse = np.random.default_rng(2).random((CALIBRATION_IMAGES, squares, squares, 3), np.float32)
    return coarse.repeat(PATCH, 1).repeat(PATCH, 2)[:, : shape.side, : shape.side]


def _write_inference(place: Path, model: TrainedModel, images: Float32) -> None:
    from emberfleet.converters.opencl.part import write_opencl_part
    from emberfleet.converters.tflite.float_writer import write_tflite_float
    from emberfleet.converters.tflite.int8_writer import write_tflite_int8
    from emberfleet.engine.numpy_backend.backend import NumpyBackend

    graph, numpy = model.graph, NumpyBackend()
    network = quantize(graph, model.tensors)
    x = images[:1]
    qx = network.input_tensor.params.quantize(x)
    arrays: dict[str, Array] = {
        "calibration": images,
        "x": x,
        "y": numpy.predictor(graph, model.tensors, 1).run(x),
        "qx": qx,
        "qy": numpy.integer_predictor(network, 1).run_integer(qx),
    }
    for name, value in arrays.items():
        np.save(place / f"{name}.npy", value)
    _write_weights(place, model.tensors)
    (place / "float.tflite").write_bytes(write_tflite_float(graph, model.tensors))
    (place / "int8.tflite").write_bytes(write_tflite_int8(network))
    for name, data in write_opencl_part(network).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)


def _write_weights(place: Path, tensors: Tensors) -> None:
    (place / "weights.safetensors").write_bytes(encode_tensors(tensors))


def _pixels(shape: SqueezeNetShape) -> Preprocessing:
    return Preprocessing(shape.side, shape.side, shape.channels)
