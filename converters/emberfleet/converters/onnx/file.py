"""A .onnx file as plain values: operators with numpy constants, nothing of protobuf left.

The bytes are hostile. The file's size is bounded before it is parsed; the counts of operators and
tensors, ranks and types before anything is made of them; tensors outside the file are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emberfleet.core.arrays import Array
from emberfleet.core.errors import ConversionError, FormatError

if TYPE_CHECKING:
    import onnx

MAX_FILE_BYTES: Final = 256 << 20
MAX_OPERATORS: Final = 16384
MAX_TENSORS: Final = 16384
MAX_RANK: Final = 8
MAX_LIST: Final = 4096
OPSETS: Final = range(11, 23)
ELEMENT_TYPES: Final[Mapping[str, str]] = {
    "FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "INT64": "int64", "INT32": "int32",
    "INT8": "int8", "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""The constants that are read, by the names of the format."""

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | Array | None
"""None: of a type that no supported operator has, such as a graph."""


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One operator; an input that is left out is an empty name."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return f"{self.operator} '{self.name or next(iter(self.outputs), '')}'"

    def error(self, text: str) -> ConversionError:
        """To be raised: this operator cannot be imported."""
        return ConversionError(f"onnx: {self.label}: {text}")

    def allow(self, *names: str) -> None:
        """Refuse attributes other than these.

        Raises:
            ConversionError: there is another; names it.
        """
        for name in self.attributes:
            if name not in names:
                known = ", ".join(names) or "none"
                raise self.error(f"attribute '{name}' is not supported, expected of: {known}")

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self._typed(name, default, int, "an integer"))

    def number(self, name: str, default: float) -> float:
        """A real attribute."""
        return float(self._typed(name, default, float, "a number"))

    def text(self, name: str, default: str) -> str:
        """A text attribute."""
        return str(self._typed(name, default, str, "a text"))

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
        """A list of integers."""
        value = self.attributes.get(name, default)
        if value is None and name not in self.attributes:
            return default
        if not isinstance(value, tuple) or not all(type(item) is int for item in value):
            raise self.error(f"attribute '{name}' is {value!r}, expected a list of integers")
        return tuple(int(item) for item in value)

    def _typed(self, name: str, default: Any, kind: type, words: str) -> Any:
        value = self.attributes.get(name, default)
        if not isinstance(value, kind):
            raise self.error(f"attribute '{name}' is {value!r}, expected {words}")
        return value


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A network of operators in topological order.

    Attributes:
        nodes: The operators that the output depends on.
        constants: Tensors with known values, by name.
        input: Name of the one input that is not a constant.
        input_shape: Its extents, the batch first; None where the file leaves one open.
        output: Name of the one output.
        opset: Version of the operators.
        producer: What the file says it was made by.
        metadata: Texts that the producer added.
    """

    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Array]
    input: str
    input_shape: tuple[int | None, ...]
    output: str
    opset: int
    producer: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_onnx(data: bytes) -> OnnxModel:
    """Parse the bytes of a .onnx file.

    Raises:
        FormatError: not a model, damaged, or beyond the limits.
        ConversionError: a model of a kind that is not supported; says what to do.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if len(data) > MAX_FILE_BYTES:
        raise FormatError(f"onnx: {len(data)} bytes, expected at most {MAX_FILE_BYTES}")
    try:
        return _read_model(onnx.ModelProto.FromString(data))
    except (DecodeError, UnicodeError) as error:
        raise FormatError(f"onnx: not a model, or damaged: {error}") from error


def _read_model(model: onnx.ModelProto) -> OnnxModel:
    graph = model.graph
    opset = _opset(model)
    for what, items, limit in (
        ("operators", graph.node, MAX_OPERATORS),
        ("tensors", graph.initializer, MAX_TENSORS),
        ("inputs", graph.input, MAX_TENSORS),
        ("outputs", graph.output, MAX_TENSORS),
        ("metadata entries", model.metadata_props, MAX_LIST),
    ):
        if len(items) > limit:
            raise FormatError(f"onnx: {len(items)} {what}, expected at most {limit}")
    if not graph.node:
        raise FormatError("onnx: the file holds no operator, expected a network")
    if graph.sparse_initializer:
        raise ConversionError("onnx: sparse tensors are not supported; export the model with dense weights")
    if model.functions:
        raise ConversionError(
            f"onnx: the model defines functions of its own ({model.functions[0].name}); inline them with "
            "onnx.inliner.inline_local_functions"
        )
    constants = {_text(tensor.name): read_tensor(tensor) for tensor in graph.initializer}
    inputs = [value for value in graph.input if _text(value.name) not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ConversionError(
            f"onnx: inputs {_names(inputs)} and outputs {_names(graph.output)}, expected one image and one "
            "list of classes; export the network without the others"
        )
    output = _text(graph.output[0].name)
    nodes = _needed([_read_node(node) for node in graph.node], output)
    return OnnxModel(
        nodes,
        constants,
        inputs[0].name,
        _input_shape(inputs[0]),
        output,
        opset,
        f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
        {_text(entry.key): _text(entry.value) for entry in model.metadata_props},
    )


def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise FormatError(f"onnx: {len(versions)} versions of the operators stated, expected one")
    if versions[0] not in OPSETS:
        raise ConversionError(
            f"onnx: opset {versions[0]}, expected {OPSETS.start} to {OPSETS.stop - 1}; export with another "
            "opset_version, or convert with onnx.version_converter"
        )
    return int(versions[0])


def _needed(nodes: list[OnnxNode], output: str) -> tuple[OnnxNode, ...]:
    """The operators that lead to the output, in the file's order."""
    wanted = {output}
    kept: list[OnnxNode] = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return tuple(reversed(kept))


def _input_shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type != 1:
        raise ConversionError(
            f"onnx: input '{value.name}' is not float32; export the model with a float32 image as its input"
        )
    if len(kind.shape.dim) != 4:
        raise ConversionError(
            f"onnx: input '{value.name}' has {len(kind.shape.dim)} axes, expected an image: (N, C, H, W) or "
            "(N, H, W, C)"
        )
    sizes: list[int | None] = []
    for dim in kind.shape.dim:
        known = dim.HasField("dim_value") and dim.dim_value > 0
        sizes.append(dim.dim_value if known else None)
    return tuple(sizes)


def _read_node(node: onnx.NodeProto) -> OnnxNode:
    domain, operator = _text(node.domain), _text(node.op_type)
    if domain not in ("", "ai.onnx"):
        operator = f"{domain}.{operator}"
    if max(len(node.input), len(node.output), len(node.attribute)) > MAX_LIST:
        raise FormatError(f"onnx: {operator[:80]!r} has over {MAX_LIST} inputs, outputs or attributes")
    attributes = {_text(entry.name): _read_attribute(entry) for entry in node.attribute}
    inputs, outputs = (tuple(_text(name) for name in names) for names in (node.input, node.output))
    return OnnxNode(operator, _text(node.name), inputs, outputs, attributes)


def _read_attribute(entry: onnx.AttributeProto) -> Attribute:
    kinds: Mapping[int, Callable[[], Attribute]] = {
        1: lambda: float(entry.f),
        2: lambda: int(entry.i),
        3: lambda: entry.s.decode("utf-8", "replace"),
        4: lambda: read_tensor(entry.t),
        6: lambda: tuple(float(value) for value in entry.floats),
        7: lambda: tuple(int(value) for value in entry.ints),
    }
    if max(len(entry.ints), len(entry.floats)) > MAX_LIST:
        raise FormatError(f"onnx: attribute {entry.name[:80]!r} holds over {MAX_LIST} values")
    read = kinds.get(entry.type)
    return None if entry.ref_attr_name or read is None else read()


def read_tensor(tensor: onnx.TensorProto) -> Array:
    """A constant as a numpy array.

    Raises:
        ConversionError: its values lie in another file, or are of a type that is not supported.
        FormatError: its values do not fill its shape.
    """
    import onnx

    name = _text(tensor.name)[:80]
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ConversionError(
            f"onnx: the values of tensor '{name}' lie in another file; save the model as one file "
            "(torch.onnx.export with external_data=False, or onnx.save without save_as_external_data)"
        )
    kind = _type_name(tensor.data_type)
    if kind not in ELEMENT_TYPES:
        raise ConversionError(
            f"onnx: tensor '{name}' is of type {kind}, expected one of {', '.join(ELEMENT_TYPES)}"
        )
    if len(tensor.dims) > MAX_RANK or any(extent < 0 for extent in tensor.dims):
        raise FormatError(f"onnx: tensor '{name}' has the shape {list(tensor.dims)[:MAX_RANK]}")
    try:
        values: Array = np.array(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError, OverflowError) as error:
        raise FormatError(f"onnx: tensor '{name}': its values do not fill its shape: {error}") from error
    return values


def _text(value: str | bytes) -> str:
    """A text of the file; protobuf hands out the bytes of one that is not UTF-8."""
    if isinstance(value, bytes):
        raise FormatError(f"onnx: {value[:80]!r} is not UTF-8 text")
    return value


def _type_name(number: int) -> str:
    import onnx

    try:
        return str(onnx.TensorProto.DataType.Name(number))
    except ValueError:
        return str(number)


def _names(values: Iterable[onnx.ValueInfoProto]) -> str:
    shown = [_text(value.name)[:80] for value in values]
    return "(" + ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "") + ")"
