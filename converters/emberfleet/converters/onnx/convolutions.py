"""Convolutions and dense layers: Conv, Gemm and MatMul, their weights brought into our order."""

from __future__ import annotations

import math

import numpy as np

from emberfleet.converters.onnx.file import OnnxNode
from emberfleet.converters.onnx.view import BATCH, View
from emberfleet.converters.onnx.walk import Handlers, Walk
from emberfleet.converters.onnx.windows import WINDOW_ATTRIBUTES, read_window
from emberfleet.core.arrays import Float64
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D


def convolution(walk: Walk, node: OnnxNode) -> None:
    """Conv: ``(O, C / group, KH, KW)`` weights; depthwise where every channel is a group of its own.

    Other groups become one dense convolution whose weights are zero between the groups.
    """
    node.allow(*WINDOW_ATTRIBUTES, "group")
    image = walk.image(node, 0, padded=True)
    weights = walk.weights(node, 1, "the weights")
    if weights.ndim != 4 or 0 in weights.shape:
        raise node.error(f"weights are {weights.shape}, expected (O, C / group, KH, KW)")
    group, channels, outputs = node.integer("group", 1), image.shape[2], weights.shape[0]
    if group < 1 or channels != weights.shape[1] * group or outputs % group:
        raise node.error(
            f"weights are {weights.shape} in {group} groups, the image has {channels} channels; expected "
            f"(O, {channels} / group, KH, KW) with O a multiple of the groups"
        )
    if image.padding != (0, 0, 0, 0):
        if image.pad_value != 0:
            raise node.error(
                f"reads a Pad with the value {image.pad_value}, expected 0: a Conv pads with zeros"
            )
        walk.folded["padding"] += 1
    window = read_window(node, image, (weights.shape[2], weights.shape[3]))
    bias = walk.vector(node, 2, "the bias", outputs) if len(node.inputs) > 2 and node.inputs[2] else None
    name, source = walk.name(node), (image.node,)
    if group == channels and group > 1:
        walk.keep(f"{name}/weight", weights.transpose(0, 2, 3, 1))
        made: Conv2D | DepthwiseConv2D = DepthwiseConv2D(
            name, source, outputs // channels, window.kernel, window.stride, window.padding, bias is not None
        )
    else:
        walk.keep(f"{name}/weight", _dense(walk, node, weights, group).transpose(0, 2, 3, 1))
        made = Conv2D(name, source, outputs, window.kernel, window.stride, window.padding, bias is not None)
    if bias is not None:
        walk.keep(f"{name}/bias", bias)
    walk.give(node, walk.emit_image(made))


def _dense(walk: Walk, node: OnnxNode, weights: Float64, group: int) -> Float64:
    """Weights of one group for all channels: zero where a group does not read."""
    if group == 1:
        return weights
    outputs, inner, kh, kw = weights.shape
    walk.reserve(weights.size * group, f"{node.label}, made dense,")
    dense = np.zeros((outputs, inner * group, kh, kw))
    per_group = outputs // group
    for index in range(group):
        rows = slice(index * per_group, (index + 1) * per_group)
        dense[rows, index * inner : (index + 1) * inner] = weights[rows]
    walk.remarks.append(f"{node.label}: {group} groups became one dense convolution, zero between the groups")
    return dense


def gemm(walk: Walk, node: OnnxNode) -> None:
    """Gemm: ``alpha * x @ B + beta * C`` with constant B and C."""
    node.allow("alpha", "beta", "transA", "transB")
    if node.integer("transA", 0):
        raise node.error("transA is 1, expected 0: the batch comes first")
    weights = _matrix(walk, node) * node.number("alpha", 1.0)
    if node.integer("transB", 0):
        weights = weights.T
    bias = None
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = walk.weights(node, 2, "C") * node.number("beta", 1.0)
        try:
            bias = np.broadcast_to(bias, (1, weights.shape[1]))[0]
        except ValueError as error:
            raise node.error(f"C has the shape {bias.shape}, expected ({weights.shape[1]},)") from error
    walk.give(node, _fully_connected(walk, node, walk.view(node, 0), weights, bias))


def matmul(walk: Walk, node: OnnxNode) -> None:
    """MatMul with constant weights; an Add after it becomes its bias."""
    node.allow()
    walk.give(node, _fully_connected(walk, node, walk.view(node, 0), _matrix(walk, node), None))


def _matrix(walk: Walk, node: OnnxNode) -> Float64:
    weights = walk.weights(node, 1, "the weights")
    if weights.ndim != 2 or 0 in weights.shape:
        raise node.error(f"weights have the shape {weights.shape}, expected a matrix")
    return weights


def _fully_connected(walk: Walk, node: OnnxNode, view: View, weights: Float64, bias: Float64 | None) -> View:
    """A dense layer as a convolution whose kernel is the image, ``(F, O)`` weights in the image's order."""
    walk.batch_first(node, view)
    view = walk.three_axes(view)
    features = tuple(axis for dim in view.dims[1:] for axis in dim if axis != BATCH)
    count = math.prod(view.shape)
    if len(view.dims) != 2 or count != weights.shape[0]:
        raise node.error(
            f"reads {walk.words(view.sizes)} with weights of {weights.shape}, expected "
            f"(N, {weights.shape[0]}); flatten the image before it"
        )
    outputs = weights.shape[1]
    in_file_order = weights.reshape(*(view.shape[axis] for axis in features), outputs)
    ours = in_file_order.transpose(*np.argsort(features), len(features))
    name = walk.name(node)
    walk.keep(f"{name}/weight", np.moveaxis(ours.reshape(*view.shape, outputs), -1, 0))
    if bias is not None:
        walk.keep(f"{name}/bias", bias)
    if len(features) > 1:
        walk.folded["order of flattened images"] += 1
    kernel = (view.shape[0], view.shape[1])
    conv = Conv2D(name, (view.node,), outputs, kernel, bias=bias is not None)
    return walk.emit_image(conv).arranged((BATCH,), (2,))


CONVOLUTIONS: Handlers = {"Conv": convolution, "Gemm": gemm, "MatMul": matmul}
