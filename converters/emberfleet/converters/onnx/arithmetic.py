"""Activations, batch norm, sums and joins, and arithmetic with constants."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from emberfleet.converters.onnx.file import OnnxNode
from emberfleet.converters.onnx.view import View
from emberfleet.converters.onnx.walk import Handlers, Walk
from emberfleet.core.arrays import Array, Float64
from emberfleet.core.nodes import Add, BatchNorm, ClippedRelu, Concat, Dropout, Relu, Softmax

BATCH_NORM_ATTRIBUTES = ("epsilon", "momentum", "training_mode")


def relu(walk: Walk, node: OnnxNode) -> None:
    """Relu."""
    node.allow()
    view = walk.view(node, 0)
    walk.give(node, walk.emit_view(Relu(walk.name(node), (view.node,)), view))


def clip(walk: Walk, node: OnnxNode) -> None:
    """Clip from 0 to a ceiling, or to none."""
    node.allow()
    low = _bound(walk, node, 1, -math.inf)
    high = _bound(walk, node, 2, math.inf)
    if low <= -1e30 and high >= 1e30:
        walk.alias(node, walk.view(node, 0), "identities")
    elif low == 0 and high > 0:
        view, name = walk.view(node, 0), walk.name(node)
        made = Relu(name, (view.node,)) if high >= 1e30 else ClippedRelu(name, (view.node,), high)
        walk.give(node, walk.emit_view(made, view))
    else:
        raise node.error(
            f"clips to {low} ... {high}, expected 0 ... a positive number, or 0 and no upper end"
        )


def _bound(walk: Walk, node: OnnxNode, index: int, default: float) -> float:
    given = walk.optional_constant(node, index, "the bound")
    if given is None:
        return default
    if given.size != 1 or np.isnan(given).any():
        raise node.error(f"its bound (input {index}) is {given.ravel()[:4]}, expected one number")
    return float(given.ravel()[0])


def maximum(walk: Walk, node: OnnxNode) -> None:
    """Max with the constant 0: a Relu."""
    node.allow()
    index, bound = _with_number(walk, node)
    if bound != 0:
        raise node.error(f"takes the larger of a tensor and {bound}, expected 0")
    view = walk.view(node, index)
    walk.give(node, walk.emit_view(Relu(walk.name(node), (view.node,)), view))


def minimum(walk: Walk, node: OnnxNode) -> None:
    """Min of a Relu and a positive constant: a Relu with a ceiling."""
    node.allow()
    index, bound = _with_number(walk, node)
    view = walk.view(node, index)
    before = walk.producer(view)
    if not isinstance(before, Relu) or not walk.alone(node, index) or not bound > 0:
        raise node.error(f"takes the smaller of a tensor and {bound}, expected a Relu and a positive number")
    walk.nodes[before.name] = ClippedRelu(before.name, before.inputs, bound)
    walk.folded["into a Relu"] += 1
    walk.give(node, view)


def _with_number(walk: Walk, node: OnnxNode) -> tuple[int, float]:
    """Which of two inputs the network computes, and the number that the other one is."""
    if len(node.inputs) == 2:
        for index in (0, 1):
            other = walk.values.get(node.inputs[1 - index])
            if isinstance(walk.values.get(node.inputs[index]), View) and isinstance(other, np.ndarray):
                if other.size == 1 and np.isfinite(other).all():
                    return index, float(other.ravel()[0])
    raise node.error("expected two inputs: what the network computes and one constant number")


def dropout(walk: Walk, node: OnnxNode) -> None:
    """Dropout: nothing happens in inference, and retraining drops as the exporter's training did."""
    node.allow("ratio", "seed")
    if walk.read_anywhere(node.outputs[1:]):
        raise node.error("its second output, the mask, is read; only the first is supported")
    view = walk.view(node, 0)
    given = walk.optional_constant(node, 1, "the ratio")
    rate = (
        node.number("ratio", 0.5) if given is None else float(given.ravel()[0]) if given.size == 1 else -1.0
    )
    if not 0 <= rate < 1:
        raise node.error(f"its ratio is {rate}, expected 0 <= ratio < 1")
    if rate == 0:
        walk.alias(node, view, "identities")
    else:
        walk.give(node, walk.emit_view(Dropout(walk.name(node), (view.node,), rate), view))


def batch_norm(walk: Walk, node: OnnxNode) -> None:
    """BatchNormalization, as in inference; at the network's input it becomes part of the preprocessing."""
    node.allow(*BATCH_NORM_ATTRIBUTES)
    if walk.read_anywhere(node.outputs[1:]):
        raise node.error("its running statistics are read; only the first output is supported")
    image = walk.image(node, 0)
    count = image.shape[2]
    names = ("gamma", "beta", "mean", "variance")
    gamma, beta, mean, variance = (
        walk.vector(node, index, what, count) for index, what in enumerate(names, 1)
    )
    epsilon = node.number("epsilon", 1e-5)
    if not epsilon >= 0 or not (variance + epsilon > 0).all():
        raise node.error(f"its variances and epsilon {epsilon} are not positive")
    if node.integer("training_mode", 0) or (walk.model.opset < 14 and len(node.outputs) > 1):
        walk.remarks.append(f"{node.label} was exported for training; it is read with its running statistics")
    scale = gamma / np.sqrt(variance + epsilon)
    if walk.is_bare_input(node, image) and (scale > 0).all():
        walk.give(node, walk.affine(node, image, scale, beta - mean * scale))
        return
    name = walk.name(node)
    for part, values in zip(names, (gamma, beta, mean, variance), strict=True):
        walk.keep(f"{name}/{part}", values)
    momentum = min(max(node.number("momentum", 0.9), 0.0), 1.0)
    walk.give(node, walk.emit_view(BatchNorm(name, (image.node,), epsilon, momentum), image))


def concat(walk: Walk, node: OnnxNode) -> None:
    """Concat along the channels."""
    node.allow("axis")
    axis = node.integer("axis", 1)
    rank = len(walk.view(node, 0).dims)
    images = [walk.image(node, index) for index in range(len(node.inputs))]
    if rank not in (2, 4) or not -rank <= axis < rank or axis % rank != 1:
        raise node.error(f"joins along axis {axis} of {rank}, expected the channels: axis 1")
    if any(image.shape[:2] != images[0].shape[:2] for image in images):
        found = ", ".join(walk.words(image.sizes) for image in images)
        raise node.error(f"joins {found}, expected images of one size")
    if len(images) == 1:
        walk.alias(node, walk.view(node, 0), "identities")
        return
    joined = walk.emit_image(Concat(walk.name(node), tuple(image.node for image in images)))
    walk.give(node, joined if rank == 4 else replace(joined, dims=joined.dims[:2]))


def softmax(walk: Walk, node: OnnxNode) -> None:
    """Softmax over the classes, at the end of the network."""
    node.allow("axis")
    old = walk.model.opset < 13
    view = walk.classes(node, walk.view(node, 0))
    rank = len(view.dims)
    axis = node.integer("axis", 1 if old else -1)
    if not -rank <= axis < rank:
        raise node.error(f"axis is {axis}, the tensor has {rank}")
    over = [a for dim in view.dims[axis % rank :] for a in dim] if old else list(view.dims[axis % rank])
    last = len(view.shape) - 1
    if over != ([last] if view.shape[last] != 1 else []):
        raise node.error(f"runs along axis {axis} of {walk.words(view.sizes)}, expected along the classes")
    walk.give(node, walk.emit_view(Softmax(walk.name(node), (view.node,)), view))


def add(walk: Walk, node: OnnxNode) -> None:
    """Add of two tensors of one shape, or of a constant."""
    node.allow()
    constant = _operand(walk, node)
    if constant is not None:
        _with_constant(walk, node, *constant)
        return
    first, second = walk.view(node, 0), walk.view(node, 1)
    if first.sizes == second.sizes and (first.dims, first.shape) != (second.dims, second.shape):
        first, second = walk.image(node, 0), walk.image(node, 1)
    if (first.dims, first.shape) != (second.dims, second.shape):
        raise node.error(
            f"adds {walk.words(first.sizes)} and {walk.words(second.sizes)}, expected tensors of one "
            "shape and layout"
        )
    walk.give(node, walk.emit_view(Add(walk.name(node), (first.node, second.node)), first))


def scale_or_shift(walk: Walk, node: OnnxNode) -> None:
    """Sub, Mul and Div with a constant."""
    node.allow()
    constant = _operand(walk, node)
    if constant is None:
        raise node.error(
            "combines two tensors of the network, expected one and a constant; only Add takes two"
        )
    _with_constant(walk, node, *constant)


def _operand(walk: Walk, node: OnnxNode) -> tuple[int, Array] | None:
    """Which of two inputs the network computes, and what the other one is; None: it computes both."""
    if len(node.inputs) != 2:
        raise node.error(f"has {len(node.inputs)} inputs, expected 2")
    for index in (0, 1):
        other = walk.values.get(node.inputs[1 - index])
        if isinstance(other, np.ndarray):
            return index, other
    return None


def _with_constant(walk: Walk, node: OnnxNode, index: int, constant: Array) -> None:
    view = walk.view(node, index)
    channels = view.shape[-1]
    values = _per_channel(walk, node, view, constant)
    one, zero = np.ones(channels), np.zeros(channels)
    if node.operator == "Add":
        scale, shift = one, values
    elif node.operator == "Sub":
        scale, shift = (one, -values) if index == 0 else (-one, values)
    elif node.operator == "Mul":
        scale, shift = values, zero
    elif index == 0 and values.all():
        scale, shift = 1.0 / values, zero
    else:
        raise node.error("divides by the tensor or by zero, expected a tensor divided by constants")
    ordered = node if index == 0 else replace(node, inputs=(node.inputs[1], node.inputs[0]))
    if np.array_equal(scale, one) and not shift.any():
        walk.alias(ordered, view, "identities")
    else:
        walk.give(node, walk.affine(ordered, view, scale, shift))


def _per_channel(walk: Walk, node: OnnxNode, view: View, constant: Array) -> Float64:
    """A constant that is broadcast over the tensor, as one value per channel of ours."""
    values = constant.astype(np.float64)
    channels = view.shape[-1]
    rank = len(view.dims)
    if not np.isfinite(values).all():
        raise node.error("its constant holds values that are not finite")
    if values.size == 1 and values.ndim <= rank:
        return np.full(channels, values.ravel()[0])
    channel_dim = (len(view.shape) - 1,)
    wide = values.reshape((1,) * (rank - values.ndim) + values.shape) if values.ndim <= rank else values
    fits = wide.ndim == rank and all(
        extent == 1 or (dim == channel_dim and extent == channels)
        for extent, dim in zip(wide.shape, view.dims, strict=False)
    )
    if not fits:
        raise node.error(
            f"its constant has the shape {constant.shape} beside {walk.words(view.sizes)}, expected one "
            "number, or one for each channel"
        )
    return wide.reshape(channels)


ARITHMETIC: Handlers = {
    "Relu": relu,
    "Clip": clip,
    "Max": maximum,
    "Min": minimum,
    "Dropout": dropout,
    "BatchNormalization": batch_norm,
    "Concat": concat,
    "Softmax": softmax,
    "Add": add,
    "Sub": scale_or_shift,
    "Mul": scale_or_shift,
    "Div": scale_or_shift,
}
