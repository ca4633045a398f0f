"""An input whose 8-bit steps are the grey levels, so that rounding it loses nothing.

With a mean per channel, 256 steps must span the widest of three shifted ranges, and fall between the grey
levels. Where the first convolution does not pad, the mean and the deviation can go into its weights and bias:
the same function of the same pixels, and `Preprocessing` with mean 0 and deviation 1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.core.nodes import Conv2D
from emberfleet.train.trained import TrainedModel


def absorb_preprocessing(model: TrainedModel) -> TrainedModel:
    """Move mean and deviation into the convolutions that read the input, where none of them pads."""
    graph, preprocessing = model.graph, model.preprocessing
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
    readers = graph.consumers[graph.input.name]
    if not mean.any() and (std == 1.0).all():
        return model
    if not all(isinstance(node, Conv2D) and node.bias and not any(node.padding) for node in readers):
        return model
    tensors: dict[str, Float32] = dict(model.tensors)
    for node in readers:
        weight = tensors[f"{node.name}/weight"].astype(np.float64) / std
        bias = tensors[f"{node.name}/bias"] - (weight * mean).sum(axis=(1, 2, 3))
        tensors[f"{node.name}/weight"] = weight.astype(np.float32)
        tensors[f"{node.name}/bias"] = bias.astype(np.float32)
    tensors[f"{graph.input.name}/range"] = np.array([0.0, 1.0], np.float32)
    plain = replace(preprocessing, mean=(0.0,) * len(mean), std=(1.0,) * len(std))
    return replace(model, tensors=tensors, preprocessing=plain)
