"""Our .tflite files and those of TensorFlow's converter, byte for byte beside each other.

    python -m benchmarks.tflite_sizes.compare build/peers/tf/bin/python

The interpreter has TensorFlow (`make bench-peers` makes it). Prints the table of `benchmarks/README.md`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from emberfleet.converters.tflite.float_writer import Weights, write_tflite_float
from emberfleet.converters.tflite.int8_writer import write_tflite_int8
from emberfleet.core.arrays import Float32, Tensors
from emberfleet.core.graph import Graph
from emberfleet.core.lowering import quantize
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.train.calibration import calibrate
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.models import mobilenet, resnet, squeezenet_1_1, squeezenet_32

NETWORKS: Final[Mapping[str, Callable[[], Graph]]] = {
    "sq32": squeezenet_32,
    "SqueezeNet 1.1": lambda: squeezenet_1_1(1000),
    "MobileNet 0.25, 96 x 96": lambda: mobilenet(96, classes=10, width=0.25),
    "MobileNet 1.0, 224 x 224": mobilenet,
    "ResNet 14, 32 x 32": resnet,
}
FORMS: Final = ("float32", "float16", "dynamic", "int8")
IMAGES: Final = 4
KERAS_JOB: Final = Path(__file__).with_name("keras_job.py")
ALLOWED_ERROR: Final = 1e-4
"""Keras is the same network if its outputs are this close, relative to the largest."""


def main() -> None:
    """Print one row for each network and form."""
    print("| network | form | ours | TensorFlow | ours / TensorFlow |")
    print("| --- | --- | --- | --- | --- |")
    for name, make in NETWORKS.items():
        ours, theirs = sizes(make(), sys.argv[1])
        for form in FORMS:
            ratio = ours[form] / theirs[form]
            print(f"| {name} | {form} | {ours[form]:,} | {theirs[form]:,} | {ratio:.4f} |")


def sizes(graph: Graph, python: str) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by form: ours, and those of TensorFlow's converter run by the interpreter `python`.

    Raises:
        ValueError: Keras computes another network.
    """
    tensors = some_tensors(graph)
    images = np.random.default_rng(0).random((IMAGES, *graph.input.shape), dtype=np.float32)
    tensors |= calibrate(graph, tensors, images)
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        (folder / "graph.json").write_text(graph.to_json())
        np.savez(folder / "tensors.npz", allow_pickle=False, **tensors)
        np.save(folder / "images.npy", images)
        np.save(folder / "outputs.npy", NumpyBackend().predictor(graph, tensors, IMAGES).run(images))
        subprocess.run([python, str(KERAS_JOB), str(folder)], check=True, stdout=subprocess.DEVNULL)
        error = json.loads((folder / "error.json").read_text())
        if error > ALLOWED_ERROR:
            raise ValueError(f"Keras is {error} away from our outputs, expected at most {ALLOWED_ERROR}")
        theirs = {form: (folder / f"{form}.tflite").stat().st_size for form in FORMS}
    return {form: len(data) for form, data in our_files(graph, tensors).items()}, theirs


def some_tensors(graph: Graph) -> dict[str, Float32]:
    """First weights, and other biases and statistics than zeros and ones, which a file would store once."""
    height, width, channels = graph.input.shape
    generator = np.random.default_rng(1)
    tensors = initial_tensors(graph, 0, Preprocessing(height, width, channels))
    for name, shape in {**graph.parameters, **graph.state}.items():
        if not name.endswith("/weight"):
            tensors[name] = tensors[name] + generator.uniform(0.0, 0.1, shape).astype(np.float32)
    return tensors


def our_files(graph: Graph, tensors: Tensors) -> dict[str, bytes]:
    """What our writers make, by form."""
    files = {form: write_tflite_float(graph, tensors, weights=Weights(form)) for form in FORMS[:3]}
    return {**files, "int8": write_tflite_int8(quantize(graph, tensors))}


if __name__ == "__main__":
    main()
