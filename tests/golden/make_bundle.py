"""Makes ``tiny.safetensors`` and ``tiny.ember``: the smallest tensors and bundle that use every field.

    PYTHONPATH=edge:. python tests/golden/make_bundle.py tests/golden

`tests/core/test_bundle.py` and `tests/core/test_tensors.py` hold the writers to these bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from emberfleet.core.arrays import Array
from emberfleet.core.bundle import GRAPH_PART, WEIGHTS_PART, encode_bundle
from emberfleet.core.graph import Graph
from emberfleet.core.manifest import Manifest, TensorContract
from emberfleet.core.nodes import Conv2D, GlobalAveragePool, Input
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.signing import SigningKey
from emberfleet.core.tensors import encode_tensors

KEY = SigningKey(bytes(range(32)))
"""Signs nothing but test files: anybody can read its secret here."""


def make_graph() -> Graph:
    """One convolution to three classes and the mean over the image."""
    return Graph(
        (
            Input("input", (), (2, 2, 1)),
            Conv2D("head", ("input",), channels=3),
            GlobalAveragePool("pool", ("head",)),
        )
    )


def make_tensors() -> dict[str, Array]:
    """The weights of `make_graph`, and one tensor of each other type and of hard shapes."""
    return {
        "head/weight": np.array([-1.5, 0.0, 2.0], np.float32).reshape(3, 1, 1, 1),
        "head/bias": np.array([0.25, -0.0, 1e-45], np.float32),
        "types/f64": np.array(0.1, np.float64),
        "types/f16": np.array([65504, -2], np.float16),
        "types/i64": np.array([-(1 << 63)], np.int64),
        "types/i32": np.array([1 << 30], np.int32),
        "types/i16": np.array([-32768], np.int16),
        "types/i8": np.array([[-128, 127, 0]], np.int8),
        "types/u8": np.array([255], np.uint8),
        "types/empty": np.zeros((0, 3), np.float32),
    }


def make_manifest() -> Manifest:
    """Every field in use, none with a clock behind it."""
    return Manifest(
        model_name="tiny",
        model_version=7,
        created="2026-01-31T12:00:00Z",
        labels=("eins", "zwei", "größer"),
        preprocessing=Preprocessing(2, 2, 1, mean=(0.5,), std=(0.25,)),
        input=TensorContract("float32", (2, 2, 1)),
        output=TensorContract("float32", (3,)),
        plans={"head": ("head/weight", "head/bias")},
        metrics={"accuracy": 0.75},
        parent="0123456789abcdef" * 4,
    )


def make_parts() -> dict[str, bytes]:
    """The graph, its tensors, and a file in a folder."""
    return {
        GRAPH_PART: make_graph().to_json().encode(),
        WEIGHTS_PART: encode_tensors(make_tensors(), {"made_by": "make_bundle.py"}),
        "opencl/empty.cl": b"",
    }


def make_files() -> dict[str, bytes]:
    """The golden files by name."""
    parts = make_parts()
    return {
        "tiny.safetensors": parts[WEIGHTS_PART],
        "tiny.ember": encode_bundle(make_manifest(), parts, KEY),
    }


if __name__ == "__main__":
    for name, data in make_files().items():
        Path(sys.argv[1], name).write_bytes(data)
