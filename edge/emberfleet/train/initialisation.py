"""First values of a network's tensors, from a seed."""

from __future__ import annotations

import math
import zlib

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.core.graph import Graph
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.quantization import quantization_points

LAST_LAYER_GAIN = 0.1
"""The last layer starts this much smaller, so that the first predictions are close to uniform."""


def initial_tensors(graph: Graph, seed: int, preprocessing: Preprocessing) -> dict[str, Float32]:
    """Parameters, running statistics and the input's range, the same for the same seed.

    Convolutions draw from a normal distribution of variance ``2 / (KH * KW * C)``, so that
    activations keep their size through ReLU layers. Batch norm starts as the identity. Each
    tensor has its own generator, keyed by its name: adding a layer leaves the others as they were.

    Source:
        He et al. 2015, arXiv:1502.01852.
    """
    last = [name for name in graph.parameters if name.endswith("/weight")][-1]
    tensors: dict[str, Float32] = {}
    for name, shape in {**graph.parameters, **graph.state}.items():
        kind = name.rsplit("/", 1)[1]
        if kind == "weight":
            random = np.random.default_rng([seed, zlib.crc32(name.encode())])
            scale = math.sqrt(2.0 / math.prod(shape[1:])) * (LAST_LAYER_GAIN if name == last else 1.0)
            tensors[name] = (random.standard_normal(shape) * scale).astype(np.float32)
        else:
            tensors[name] = np.full(shape, 1.0 if kind in ("gamma", "variance") else 0.0, np.float32)
    tensors[quantization_points(graph)[graph.input.name]] = np.array(preprocessing.range, np.float32)
    return tensors
