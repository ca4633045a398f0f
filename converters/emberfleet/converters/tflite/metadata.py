"""TensorFlow Lite Metadata: what a .tflite says about its images and classes, for other programs.

A flatbuffer of its own schema, identifier ``M001``, lies in a buffer of the model that the entry
``TFLITE_METADATA`` names; the labels are a file ``labels.txt``, one a line, in a zip behind the model.

Source: tflite-support, tensorflow_lite_support/metadata/metadata_schema.fbs, version 1.0.0: nothing
that came later is used.
"""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import flatbuffers
import numpy as np

from emberfleet.converters.tflite.model import OperatorKind, TensorType, TfliteModel
from emberfleet.core.errors import ConversionError
from emberfleet.core.preprocessing import Preprocessing

ENTRY: Final = "TFLITE_METADATA"
IDENTIFIER: Final = b"M001"
MIN_PARSER_VERSION: Final = "1.0.0"
LABELS_FILE: Final = "labels.txt"
LARGEST_PIXEL = 255.0

IMAGE_PROPERTIES, FEATURE_PROPERTIES = 2, 1
RGB, GREY = 1, 2
NORMALIZATION = 1
AXIS_LABELS = 2


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a file says about itself; texts may be empty.

    Raises:
        ConversionError: a label that is empty or longer than a line, or a text that is not Unicode.
    """

    labels: tuple[str, ...]
    """Names of the classes, in the order of the output."""
    preprocessing: Preprocessing
    name: str = ""
    version: str = ""
    author: str = ""
    licence: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        for label in self.labels:
            if label.splitlines() != [label]:
                raise ConversionError(f"label {label!r} is not one line: .tflite keeps one label a line")
        for text in (*self.labels, self.name, self.version, self.author, self.licence, self.description):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ConversionError(f"{text!r} cannot be written as UTF-8") from error

    @property
    def labels_file(self) -> bytes:
        """The labels, one a line."""
        return "".join(f"{label}\n" for label in self.labels).encode()


def encode_metadata(card: ModelCard, model: TfliteModel) -> bytes:
    """The metadata of a model as a flatbuffer.

    Raises:
        ConversionError: the card is of a network with another input or other classes.
    """
    read, given = model.tensors[model.input].shape[1:], model.tensors[model.output].shape[-1]
    if (card.preprocessing.shape, len(card.labels)) != (read, given):
        raise ConversionError(
            f"metadata for images of {card.preprocessing.shape} and {len(card.labels)} classes, "
            f"the network reads {read} and gives {given}"
        )
    builder = _Builder()
    subgraph = builder.table(
        {2: builder.tables([_input(builder, card, model)]), 3: builder.tables([_output(builder, model)])}
    )
    texts = {0: card.name, 1: card.description, 2: card.version, 4: card.author, 5: card.licence}
    root = builder.table(
        {
            **{slot: builder.text(text) for slot, text in texts.items() if text},
            3: builder.tables([subgraph]),
            7: builder.text(MIN_PARSER_VERSION),
        }
    )
    return builder.finish(root)


def append_files(model: bytes, files: Mapping[str, bytes]) -> bytes:
    """The model with a zip of files behind it; the same bytes for the same files."""
    target = io.BytesIO(model)
    with zipfile.ZipFile(target, "a") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content)
    return target.getvalue()


def _input(builder: _Builder, card: ModelCard, model: TfliteModel) -> int:
    """The image: its size and colours, and how 0 to 255 become what the network reads."""
    pixels = card.preprocessing
    mean = LARGEST_PIXEL * np.array(pixels.mean)
    std = LARGEST_PIXEL * np.array(pixels.std)
    size = builder.table({0: _UInt32(pixels.width), 1: _UInt32(pixels.height)})
    colours = _Byte(RGB if pixels.channels == 3 else GREY)
    content = builder.table({0: _Byte(IMAGE_PROPERTIES), 1: builder.table({0: colours, 1: size})})
    options = builder.table({0: builder.floats(mean), 1: builder.floats(std)})
    unit = builder.table({0: _Byte(NORMALIZATION), 1: options})
    quantized = model.tensors[model.input].type is TensorType.INT8
    read = "int8 on the scale of the tensor" if quantized else "float32"
    fields: dict[int, int] = {
        0: builder.text("image"),
        1: builder.text(f"{pixels.height} x {pixels.width} pixels, (pixel - mean) / std per channel, {read}"),
        3: content,
        4: builder.tables([unit]),
    }
    if not quantized:
        highest, lowest = builder.floats((LARGEST_PIXEL - mean) / std), builder.floats((0.0 - mean) / std)
        fields[5] = builder.table({0: highest, 1: lowest})
    return builder.table(fields)


def _output(builder: _Builder, model: TfliteModel) -> int:
    """One number for each class, the labels along the last axis."""
    probabilities = bool(model.operators) and model.operators[-1].kind is OperatorKind.SOFTMAX
    what = "probability" if probabilities else "logit: the largest wins, a softmax gives probabilities"
    labels = builder.table(
        {
            0: builder.text(LABELS_FILE),
            1: builder.text("names of the classes, one a line, in the order of the last axis"),
            2: _Byte(AXIS_LABELS),
        }
    )
    fields: dict[int, int] = {
        0: builder.text("scores"),
        1: builder.text(f"for each class its {what}"),
        3: builder.table({0: _Byte(FEATURE_PROPERTIES), 1: builder.table({})}),
        6: builder.tables([labels]),
    }
    if probabilities:
        fields[5] = builder.table({0: builder.floats([1.0]), 1: builder.floats([0.0])})
    return builder.table(fields)


class _Byte(int):
    """A field of one byte, beside fields that are offsets."""


class _UInt32(int):
    """A field that is a number of four bytes."""


class _Builder:
    """Tables of a schema that has no generated code here: fields by their slots."""

    def __init__(self) -> None:
        self._builder: Any = flatbuffers.Builder(1 << 10)

    def table(self, fields: Mapping[int, int]) -> int:
        """One table; numbers are offsets unless they are `_Byte` or `_UInt32`."""
        self._builder.StartObject(max(fields, default=-1) + 1)
        for slot, value in fields.items():
            if isinstance(value, _Byte):
                self._builder.PrependUint8Slot(slot, value, 0)
            elif isinstance(value, _UInt32):
                self._builder.PrependUint32Slot(slot, value, 0)
            else:
                self._builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return int(self._builder.EndObject())

    def text(self, text: str) -> int:
        return int(self._builder.CreateSharedString(text))

    def floats(self, values: Sequence[float] | np.ndarray) -> int:
        return int(self._builder.CreateNumpyVector(np.asarray(values, np.float32)))

    def tables(self, offsets: list[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def finish(self, root: int) -> bytes:
        self._builder.Finish(root, IDENTIFIER)
        return bytes(self._builder.Output())
