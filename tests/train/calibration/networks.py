"""Small networks with what calibration treats apart: a fire, a pool at the end, channels of unlike size."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Concat, Conv2D, GlobalAveragePool, Input, MaxPool, Relu
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.train.trained import TrainedModel

PIXELS = Preprocessing(15, 15, 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.25))
NONE = (0, 0, 0, 0)


def fire_graph() -> Graph:
    """A convolution, a pool, a squeeze read by two branches, a concat, and a class map with its pool."""
    return Graph(
        (
            Input("input", (), PIXELS.shape),
            Conv2D("conv1", ("input",), 8, (3, 3), (2, 2), NONE, True),
            Relu("relu1", ("conv1",)),
            MaxPool("pool1", ("relu1",), (3, 3), (2, 2), NONE),
            Conv2D("squeeze", ("pool1",), 4, (1, 1), (1, 1), NONE, True),
            Relu("squeeze_relu", ("squeeze",)),
            Conv2D("left", ("squeeze_relu",), 6, (1, 1), (1, 1), NONE, True),
            Conv2D("right", ("squeeze_relu",), 6, (3, 3), (1, 1), (1, 1, 1, 1), True),
            Concat("concat", ("left", "right")),
            Relu("relu", ("concat",)),
            Conv2D("head", ("relu",), 5, (1, 1), (1, 1), NONE, True),
            Relu("head_relu", ("head",)),
            GlobalAveragePool("scores", ("head_relu",)),
        )
    )


def fire_model(seed: int = 0) -> TrainedModel:
    """The network with random weights whose channels differ by orders of magnitude."""
    generator = np.random.default_rng(seed)
    graph = fire_graph()
    tensors: dict[str, Float32] = {}
    for name, shape in graph.parameters.items():
        values = generator.standard_normal(shape)
        if name.endswith("/weight"):
            values *= np.exp(generator.normal(0, 1.0, (shape[0], 1, 1, 1))) / np.sqrt(np.prod(shape[1:]))
        tensors[name] = (values * (0.1 if name.endswith("/bias") else 1.0)).astype(np.float32)
    tensors["input/range"] = np.array(PIXELS.range, np.float32)
    return TrainedModel(graph, tensors, PIXELS, tuple("abcde"))


def photos(count: int = 24, seed: int = 1) -> np.ndarray:
    """Smooth random bytes ``(count, 15, 15, 3)``."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3))
    return np.repeat(np.repeat(coarse, 3, axis=1), 3, axis=2).astype(np.uint8)
