"""The state of an import: what is known of each tensor, and our network as far as it is built."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np

from emberfleet.converters.onnx.file import OnnxModel, OnnxNode
from emberfleet.converters.onnx.view import BATCH, NO_PADDING, OPEN_BATCH, View, image_view
from emberfleet.core.arrays import Array, Float32, Float64
from emberfleet.core.errors import ConversionError, FormatError
from emberfleet.core.graph import MAX_NODES
from emberfleet.core.nodes import BatchNorm, Conv2D, DepthwiseConv2D, Input, Node, Reshape, Shape

MAX_VALUES: Final = 1 << 27
"""Most values that constants and weights may have together, whatever a small file asks for."""
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")
_NAME_CHARACTERS = 100


@dataclass
class Walk:
    """What the operators of the ONNX network are turned into, one after another.

    Attributes:
        model: The network that is read.
        batch: Its batch, `OPEN_BATCH` where any will do.
        nodes: Ours, by name, in order.
        shapes: Of our nodes.
        tensors: Our weights.
        values: What is known of each ONNX tensor: its values, or where they are in our network.
        folded: What needed no node of its own, counted.
        remarks: What the user should know.
        input_scale: ``(C,)``: our input is the ONNX network's input times this ...
        input_shift: ``(C,)``: ... plus this.
    """

    model: OnnxModel
    batch: int
    nodes: dict[str, Node]
    shapes: dict[str, Shape]
    input_scale: Float64
    input_shift: Float64
    tensors: dict[str, Float32] = field(default_factory=dict)
    values: dict[str, Array | View] = field(default_factory=dict)
    folded: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    _readers: Counter[str] = field(default_factory=Counter)
    _values_held: int = 0

    @staticmethod
    def start(model: OnnxModel, shape: Shape, channels_last: bool) -> Walk:
        """A network that is only its input so far, an image of this ``(H, W, C)``."""
        name = clean_name(model.input)
        batch = model.input_shape[0] or OPEN_BATCH
        scale, shift = np.ones(shape[2]), np.zeros(shape[2])
        walk = Walk(model, batch, {name: Input(name, (), shape)}, {name: shape}, scale, shift)
        walk.values.update(model.constants)
        walk.reserve(sum(array.size for array in model.constants.values()), "the file's constants")
        walk.values[model.input] = image_view(name, shape, batch, channels_last)
        walk._readers.update(name for node in model.nodes for name in node.inputs)
        walk._readers[model.output] += 1
        return walk

    @property
    def input_name(self) -> str:
        """Name of our input."""
        return next(iter(self.nodes))

    def reserve(self, count: int, what: str) -> None:
        """Count values before they are made.

        Raises:
            FormatError: they would be too many.
        """
        self._values_held += max(count, 0)
        if self._values_held > MAX_VALUES:
            raise FormatError(
                f"onnx: {what} would bring the network's values to {self._values_held}, expected at most "
                f"{MAX_VALUES}"
            )

    # What an operator reads

    def constant(self, node: OnnxNode, index: int, what: str) -> Array:
        """The values of an input that has to be known."""
        found = self.optional_constant(node, index, what)
        if found is None:
            raise node.error(f"{what} (input {index}) is missing")
        return found

    def optional_constant(self, node: OnnxNode, index: int, what: str) -> Array | None:
        """The values of an input that has to be known where it is given."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        found = self._value(node, node.inputs[index])
        if isinstance(found, View):
            raise node.error(
                f"{what} (input {index}, '{node.inputs[index]}') is computed by the network, expected "
                "constants"
            )
        return found

    def weights(self, node: OnnxNode, index: int, what: str) -> Float64:
        """Real constants that are finite."""
        found = self.constant(node, index, what).astype(np.float64)
        if not np.isfinite(found).all():
            raise node.error(f"{what} holds values that are not finite")
        return found

    def vector(self, node: OnnxNode, index: int, what: str, count: int) -> Float64:
        """Real constants, one for each channel."""
        found = self.weights(node, index, what)
        if found.shape != (count,):
            raise node.error(f"{what} has the shape {found.shape}, expected ({count},)")
        return found

    def view(self, node: OnnxNode, index: int, padded: bool = False) -> View:
        """Where an input's values are in our network.

        Args:
            node: The operator that reads it.
            index: Which input.
            padded: Whether the operator can take in the padding of a Pad before it.
        """
        if index >= len(node.inputs) or not node.inputs[index]:
            raise node.error(f"input {index} is missing")
        found = self._value(node, node.inputs[index])
        if not isinstance(found, View):
            raise node.error(
                f"input {index}, '{node.inputs[index]}', is a constant, expected what the network computes"
            )
        if found.padding != NO_PADDING and not padded:
            raise node.error(
                "reads what a Pad gives; a Pad is supported before a Conv, MaxPool or AveragePool"
            )
        return found

    def image(self, node: OnnxNode, index: int, padded: bool = False) -> View:
        """An input as ``(N, C, H, W)`` whose node of ours is ``(H, W, C)``."""
        view = self.view(node, index, padded)
        sizes = view.sizes
        if len(sizes) == 2:
            view = replace(view, dims=(*view.dims, (), ()))
            sizes = (*sizes, 1, 1)
        if len(sizes) != 4:
            raise node.error(f"reads a tensor of shape {self.words(sizes)}, expected an image (N, C, H, W)")
        n, c, h, w = view.dims
        target = (*sizes[2:], sizes[1])
        in_order = replace(view, dims=(n, h, w, c)).in_our_order
        if not in_order or not self._batch_first(view):
            names = {BATCH: "N", 0: "H", 1: "W", 2: "C"}
            found = ", ".join("x".join(names[axis] for axis in dim) or "1" for dim in view.dims)
            raise node.error(
                f"reads an image laid out as ({found}), expected (N, C, H, W): a Transpose in the middle of "
                "the network is not supported"
            )
        return self.reshaped(view, target, image_view("", target, view.batch).dims)

    def reshaped(self, view: View, shape: Shape, dims: tuple[tuple[int, ...], ...]) -> View:
        """The same values in our tensor of another shape; a node is added where it has another one."""
        name = view.node
        if view.shape != shape:
            name = self.emit(
                Reshape(self.unused(f"{view.node}/{'x'.join(map(str, shape))}"), (view.node,), shape)
            )
            view = replace(view, shared=False)
        return replace(view, node=name, shape=shape, dims=dims)

    def three_axes(self, view: View) -> View:
        """The same values, our tensor an image of one row or pixel where it was none."""
        added = 3 - len(view.shape)
        dims = tuple(tuple(axis if axis == BATCH else axis + added for axis in dim) for dim in view.dims)
        return self.reshaped(view, (1,) * added + view.shape, dims)

    def classes(self, node: OnnxNode | None, view: View) -> View:
        """The same values as classes ``(K,)`` or as classes at positions ``(P, K)``.

        Raises:
            ConversionError: they are an image, or not in the order of our tensor.
        """
        extents = tuple(size for size in view.sizes[1:] if size != 1) or (1,)
        if not self._batch_first(view) or not view.in_our_order or len(extents) > 2:
            label = node.label if node else "the output"
            raise ConversionError(
                f"onnx: {label} has the shape {self.words(view.sizes)}, expected classes (N, K) or classes "
                "at positions (N, P, K)"
            )
        axes = iter(range(len(extents)))
        dims = tuple((next(axes),) if size != 1 else () for size in view.sizes[1:])
        return self.reshaped(view, extents, (view.dims[0], *dims))

    def _batch_first(self, view: View) -> bool:
        return view.dims[:1] == (((BATCH,) if self.batch != 1 else ()),)

    def batch_first(self, node: OnnxNode, view: View) -> None:
        """Refuse a tensor whose first dimension is not the batch alone."""
        if not view.dims or not self._batch_first(view) or view.sizes[0] != self.batch:
            raise node.error(f"reads a tensor of shape {self.words(view.sizes)}, expected the batch N first")

    def words(self, sizes: tuple[int, ...]) -> str:
        """A shape for a message, an open batch as N."""
        return "(" + ", ".join("N" if size == OPEN_BATCH else str(size) for size in sizes) + ")"

    def alone(self, node: OnnxNode, index: int) -> bool:
        """Whether nothing else reads the values of this input."""
        name = node.inputs[index]
        found = self.values[name]
        return isinstance(found, View) and not found.shared and self._readers[name] == 1

    def producer(self, view: View) -> Node:
        """Our node behind a view."""
        return self.nodes[view.node]

    def is_bare_input(self, node: OnnxNode, view: View) -> bool:
        """Whether this operator alone reads the network's input."""
        return isinstance(self.producer(view), Input) and self.alone(node, 0)

    def read_anywhere(self, names: tuple[str, ...]) -> bool:
        """Whether any of these ONNX tensors is read."""
        return any(self._readers[name] for name in names)

    def _value(self, node: OnnxNode, name: str) -> Array | View:
        if name not in self.values:
            raise FormatError(
                f"onnx: {node.label}: reads '{name[:80]}', which no operator before it computes"
            )
        return self.values[name]

    # What an operator gives

    def give(self, node: OnnxNode, value: Array | View) -> None:
        """What the operator's first output is."""
        if not node.outputs or not node.outputs[0]:
            raise FormatError(f"onnx: {node.label} has no output")
        name = node.outputs[0]
        if name in self.values:
            raise FormatError(f"onnx: {node.label}: '{name[:80]}' is computed twice")
        self.values[name] = value

    def alias(self, node: OnnxNode, view: View, what: str) -> None:
        """The operator moves no value: its output is another view of its input."""
        self.folded[what] += 1
        self.give(node, replace(view, shared=not self.alone(node, 0)))

    def name(self, node: OnnxNode) -> str:
        """A name for our node of this operator."""
        return self.unused(clean_name(node.name or next(iter(node.outputs), node.operator)))

    def unused(self, wanted: str) -> str:
        """This name, counted up where it is taken."""
        name, number = wanted, 1
        while name in self.nodes:
            number += 1
            name = f"{wanted}_{number}"
        return name

    def emit(self, node: Node) -> str:
        """Add a node of ours; returns its name."""
        if len(self.nodes) >= MAX_NODES:
            raise ConversionError(f"onnx: the network has over {MAX_NODES} operators")
        self.shapes[node.name] = node.infer(tuple(self.shapes[name] for name in node.inputs))
        self.nodes[node.name] = node
        return node.name

    def emit_view(self, node: Node, view: View) -> View:
        """Add a node that gives what `view` is in its place, value by value or channel by channel."""
        name = self.emit(node)
        return View(name, self.shapes[name], view.dims, view.batch)

    def emit_image(self, node: Node) -> View:
        """Add a node that gives an image; as ``(N, C, H, W)``."""
        name = self.emit(node)
        return image_view(name, self.shapes[name], self.batch)

    def keep(self, name: str, values: Array) -> None:
        """Take weights of ours."""
        kept = np.ascontiguousarray(values, np.float32)
        if not np.isfinite(kept).all():
            raise ConversionError(f"onnx: tensor '{name}' holds values that float32 cannot hold")
        self.tensors[name] = kept

    # A factor and an offset per channel

    def affine(self, node: OnnxNode, view: View, scale: Float64, shift: Float64) -> View:
        """``x * scale + shift`` per channel: into what stands before it, else a convolution of 1 x 1.

        At the network's input it becomes part of the preprocessing, behind a convolution or a batch norm part
        of their weights.
        """
        before = self.producer(view)
        alone = self.alone(node, 0)
        if self.is_bare_input(node, view) and (scale > 0).all():
            self.input_scale = self.input_scale * scale
            self.input_shift = self.input_shift * scale + shift
            self.folded["into the preprocessing"] += 1
            return view
        if isinstance(before, Conv2D | DepthwiseConv2D) and alone:
            self._scale_convolution(before, scale, shift)
            self.folded["into weights"] += 1
            return view
        if isinstance(before, BatchNorm) and alone:
            gamma, beta = (self.tensors[f"{before.name}/{part}"] for part in ("gamma", "beta"))
            self.keep(f"{before.name}/gamma", gamma * scale)
            self.keep(f"{before.name}/beta", beta * scale + shift)
            self.folded["into weights"] += 1
            return view
        image = self.three_axes(view)
        name = self.name(node)
        self.keep(f"{name}/weight", scale.reshape(-1, 1, 1, 1))
        self.keep(f"{name}/bias", shift)
        return self.emit_view(DepthwiseConv2D(name, (image.node,), kernel=(1, 1)), image)

    def _scale_convolution(self, conv: Conv2D | DepthwiseConv2D, scale: Float64, shift: Float64) -> None:
        weight, bias = f"{conv.name}/weight", f"{conv.name}/bias"
        held = self.tensors[bias] if conv.bias else np.zeros(len(scale))
        self.keep(weight, self.tensors[weight] * scale[:, None, None, None])
        if conv.bias or shift.any():
            self.keep(bias, held * scale + shift)
            self.nodes[conv.name] = replace(conv, bias=True)


Handler: TypeAlias = Callable[[Walk, OnnxNode], None]
Handlers: TypeAlias = Mapping[str, Handler]


def clean_name(name: str) -> str:
    """A name that tensors can have: printable, not too long, without the exporter's leading slash."""
    return _UNPRINTABLE.sub("_", name).strip("/")[:_NAME_CHARACTERS] or "node"
