"""Makes ``tiny_int8.tflite``, ``tiny_float.tflite`` and, with metadata, ``mobile_int8.tflite``.

Every operator of the writers stands in one of the two small networks.

    PYTHONPATH=edge:server:converters:. python tests/golden/make_tflite.py tests/golden

`tests/converters/tflite/test_golden.py` holds the writers to these bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from emberfleet.converters.tflite.float_writer import write_tflite_float
from emberfleet.converters.tflite.int8_writer import write_tflite_int8
from emberfleet.converters.tflite.metadata import ModelCard
from emberfleet.core.arrays import Float32
from emberfleet.core.graph import Graph
from emberfleet.core.lowering import quantize
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.quantization import quantization_points
from tests.core.networks import bypass_network, mobile_network

CARD = ModelCard(
    labels=("Ameise", "Bär", "cat", "dog", "Eule"),
    preprocessing=Preprocessing(9, 7, 3, (0.5, 0.25, 0.0), (0.5, 1.0, 0.25)),
    name="animals",
    version="3",
    author="A. Maker",
    licence="Apache-2.0",
    description="five animals, nine pixels high",
)


def make_tensors(graph: Graph) -> dict[str, Float32]:
    """Weights from a short integer sequence, the same on every platform and numpy."""
    tensors: dict[str, Float32] = {}
    state = 1
    for name, shape in {**graph.parameters, **graph.state}.items():
        values = np.empty(int(np.prod(shape)), np.float32)
        for index in range(values.size):
            state = state * 1103515245 + 12345 & 0x7FFFFFFF
            values[index] = (state >> 16) / 16384 - 1
        part = name.rsplit("/", 1)[1]
        if part in ("gamma", "variance"):
            values = np.abs(values) + np.float32(0.5)
        tensors[name] = values.reshape(shape)
    for name in set(quantization_points(graph).values()):
        tensors[name] = np.array([-4, 4], np.float32)
    tensors["input/range"] = np.array([0, 1], np.float32)
    return tensors


def make_files() -> dict[str, bytes]:
    """The golden files by name."""
    graph = bypass_network(positions=2, classes=3)
    tensors = make_tensors(graph)
    mobile = mobile_network()
    described = write_tflite_int8(quantize(mobile, make_tensors(mobile)), card=CARD)
    return {
        "mobile_int8.tflite": described,
        "tiny_int8.tflite": write_tflite_int8(quantize(graph, tensors)),
        "tiny_float.tflite": write_tflite_float(graph, tensors),
    }


if __name__ == "__main__":
    for name, data in make_files().items():
        Path(sys.argv[1], name).write_bytes(data)
