"""Pools, means over the image, and the Pad that stands before a window."""

from __future__ import annotations

import numpy as np

from emberfleet.converters.onnx.file import OnnxNode
from emberfleet.converters.onnx.view import BATCH, NO_PADDING, View
from emberfleet.converters.onnx.walk import Handlers, Walk
from emberfleet.converters.onnx.windows import MAX_WINDOW, WINDOW_ATTRIBUTES, Window, read_window
from emberfleet.core.nodes import (
    AveragePool,
    ClippedRelu,
    Concat,
    DepthwiseConv2D,
    Dropout,
    GlobalAveragePool,
    MaxPool,
    Node,
    Relu,
)

LOWEST = -1e30
"""A Pad with at most this value never wins in a MaxPool."""


def max_pool(walk: Walk, node: OnnxNode) -> None:
    """MaxPool; a Pad before it is taken in where its values cannot win."""
    node.allow(*WINDOW_ATTRIBUTES, "ceil_mode", "storage_order")
    if walk.read_anywhere(node.outputs[1:]):
        raise node.error("its second output, the places of the maxima, is read; only the first is supported")
    image = walk.image(node, 0, padded=True)
    if image.padding != NO_PADDING:
        if image.pad_value > LOWEST and not (image.pad_value == 0 and _never_negative(walk, image.node)):
            raise node.error(
                f"reads a Pad with the value {image.pad_value}, which could be the maximum; expected zeros "
                "around values that are not negative, as behind a Relu"
            )
        walk.folded["padding"] += 1
    window = read_window(node, image)
    made = MaxPool(walk.name(node), (image.node,), window.kernel, window.stride, window.padding)
    walk.give(node, walk.emit_image(made))


def _never_negative(walk: Walk, name: str) -> bool:
    """Whether what a node of ours computes cannot be below zero."""
    left = [name]
    while left:
        node: Node = walk.nodes[left.pop()]
        if isinstance(node, (MaxPool, AveragePool, GlobalAveragePool, Dropout, Concat)):
            left.extend(node.inputs)
        elif not isinstance(node, (Relu, ClippedRelu)):
            return False
    return True


def average_pool(walk: Walk, node: OnnxNode) -> None:
    """AveragePool: over the whole image, over the pixels inside, or padding counted.

    Where padding counts, every window is divided by the same number: a depthwise convolution.
    """
    node.allow(*WINDOW_ATTRIBUTES, "ceil_mode", "count_include_pad")
    image = walk.image(node, 0, padded=True)
    window = read_window(node, image)
    own = tuple(
        a - b for a, b in zip(window.padding, (*image.padding[:2], *_end(image, window)), strict=True)
    )
    counted = node.integer("count_include_pad", 0) == 1
    if image.padding != NO_PADDING:
        if image.pad_value != 0 or (any(own) and not counted):
            raise node.error(
                f"reads a Pad with the value {image.pad_value} and pads {own} itself; expected zeros, and "
                "padding in one of both places"
            )
        walk.folded["padding"] += 1
    name, source = walk.name(node), (image.node,)
    if image.padding == NO_PADDING and not (counted and any(own)):
        if window.padding == NO_PADDING and window.kernel == image.shape[:2]:
            walk.give(node, _global(walk, name, image))
            return
        pool = AveragePool(name, source, window.kernel, window.stride, window.padding)
        walk.give(node, walk.emit_image(pool))
        return
    if any(window.overhang):
        raise node.error(
            "counts padding and rounds its size up, so that windows at the edge are divided by other "
            "numbers; expected ceil_mode 0 or count_include_pad 0"
        )
    kh, kw = window.kernel
    walk.reserve(image.shape[2] * kh * kw, f"{node.label}, as a convolution,")
    walk.keep(f"{name}/weight", np.full((image.shape[2], kh, kw, 1), 1.0 / (kh * kw)))
    walk.remarks.append(f"{node.label}: counts its padding and became a depthwise convolution of constants")
    made = DepthwiseConv2D(name, source, 1, window.kernel, window.stride, window.padding, bias=False)
    walk.give(node, walk.emit_image(made))


def _end(image: View, window: Window) -> tuple[int, int]:
    """What is not the operator's own padding at the bottom and right."""
    return (image.padding[2] + window.overhang[0], image.padding[3] + window.overhang[1])


def global_average_pool(walk: Walk, node: OnnxNode) -> None:
    """GlobalAveragePool."""
    node.allow()
    walk.give(node, _global(walk, walk.name(node), walk.image(node, 0)))


def _global(walk: Walk, name: str, image: View) -> View:
    made = walk.emit(GlobalAveragePool(name, (image.node,)))
    shape = walk.shapes[made]
    return View(made, shape, (), image.batch).arranged((BATCH,), (0,), (), ())


def global_max_pool(walk: Walk, node: OnnxNode) -> None:
    """GlobalMaxPool: a window over the whole image."""
    node.allow()
    image = walk.image(node, 0)
    kernel = (image.shape[0], image.shape[1])
    walk.give(node, walk.emit_image(MaxPool(walk.name(node), (image.node,), kernel, (1, 1))))


def reduce_mean(walk: Walk, node: OnnxNode) -> None:
    """ReduceMean over height and width, in any layout."""
    node.allow("axes", "keepdims", "noop_with_empty_axes")
    view = walk.view(node, 0)
    given = walk.optional_constant(node, 1, "the axes")
    axes = node.integers("axes") if given is None else tuple(int(axis) for axis in given.ravel())
    rank = len(view.dims)
    if axes is None or not all(-rank <= axis < rank for axis in axes):
        raise node.error(f"axes are {axes}, expected those of height and width")
    reduced = {axis % rank for axis in axes}
    inside = {axis for index in reduced for axis in view.dims[index]}
    spatial = {axis for axis in (0, 1) if view.shape[axis] != 1} if len(view.shape) == 3 else None
    if inside != spatial or 0 in reduced:
        raise node.error(
            f"takes the mean over the axes {axes} of {walk.words(view.sizes)}, expected over height and width"
        )
    made = walk.emit(GlobalAveragePool(walk.name(node), (view.node,)))
    kept = [
        tuple(0 for axis in dim if axis == 2) if index not in reduced else ()
        for index, dim in enumerate(view.dims)
        if index not in reduced or node.integer("keepdims", 1)
    ]
    result = View(made, walk.shapes[made], (), view.batch)
    walk.give(node, result.arranged((BATCH,), *kept[1:]))


def pad(walk: Walk, node: OnnxNode) -> None:
    """Pad with a constant around height and width: the convolution or pool after it takes it in."""
    node.allow("mode")
    if node.text("mode", "constant") != "constant":
        raise node.error(f"mode is '{node.text('mode', '')}', expected constant")
    view = walk.view(node, 0, padded=True)
    pads = [int(value) for value in walk.constant(node, 1, "the pads").ravel()]
    value = walk.optional_constant(node, 2, "the value")
    filler = float(value.ravel()[0]) if value is not None and value.size == 1 else 0.0
    rank = len(view.dims)
    axes = walk.optional_constant(node, 3, "the axes")
    places = list(range(rank)) if axes is None else [int(axis) % max(rank, 1) for axis in axes.ravel()]
    if len(pads) != 2 * len(places) or not all(0 <= amount <= MAX_WINDOW for amount in pads):
        raise node.error(f"pads are {pads[:16]}, expected {2 * len(places)} numbers from 0 to {MAX_WINDOW}")
    around = dict(zip(places, zip(pads[: len(places)], pads[len(places) :], strict=True), strict=True))
    around = {place: amounts for place, amounts in around.items() if any(amounts)}
    if not around:
        walk.alias(node, view, "identities")
        return
    height, width = _spatial(walk, node, view)
    if not set(around) <= {height, width} or (view.padding != NO_PADDING and view.pad_value != filler):
        raise node.error(f"pads are {pads[:16]} on {walk.words(view.sizes)}, expected around the image only")
    (top, bottom), (left, right) = around.get(height, (0, 0)), around.get(width, (0, 0))
    old = view.padding
    padding = (old[0] + top, old[1] + left, old[2] + bottom, old[3] + right)
    padded = View(view.node, view.shape, view.dims, view.batch, not walk.alone(node, 0), padding, filler)
    walk.give(node, padded)


def _spatial(walk: Walk, node: OnnxNode, view: View) -> tuple[int, int]:
    """Which dimensions of the ONNX tensor are height and width."""
    for places in ((2, 3), (1, 2)):
        channel = ({1, 2, 3} - set(places)).pop()
        if len(view.dims) == 4 and len(view.shape) == 3:
            wanted = view.arranged(*((BATCH,), *_order(places, channel)))
            if wanted.dims == view.dims:
                return places
    raise node.error(f"reads {walk.words(view.sizes)}, expected an image (N, C, H, W) or (N, H, W, C)")


def _order(places: tuple[int, int], channel: int) -> list[tuple[int, ...]]:
    axes = {places[0]: (0,), places[1]: (1,), channel: (2,)}
    return [axes[index] for index in (1, 2, 3)]


POOLS: Handlers = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "ReduceMean": reduce_mean,
    "Pad": pad,
}
