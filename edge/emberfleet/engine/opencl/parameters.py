"""Parameters as the device holds them: weights ``(KH, KW, C, O padded)``, vectors padded, one flat buffer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.core.nodes import Shape
from emberfleet.engine.opencl.layout import round_up


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in the flat buffer."""

    shape: Shape
    offset: int
    floats: int

    @property
    def padded(self) -> int:
        """Length of the innermost axis on the device."""
        return self.floats // math.prod(self.shape[1:])


class ParameterBlock:
    """Where each of a set of tensors lies in one flat buffer."""

    def __init__(self, shapes: Mapping[str, Shape], vector: int) -> None:
        self.entries: dict[str, Entry] = {}
        self.floats = 0
        for name, shape in shapes.items():
            floats = round_up(shape[0], vector) * math.prod(shape[1:])
            self.entries[name] = Entry(shape, self.floats, floats)
            self.floats += floats

    def offset(self, name: str) -> int:
        """Position of a tensor, in floats."""
        return self.entries[name].offset

    def pack(self, tensors: Mapping[str, Float32], flat: Float32 | None = None) -> Float32:
        """The buffer's contents for tensors ``(O, KH, KW, C)`` and ``(C,)``; padding is zero."""
        flat = np.zeros(self.floats, np.float32) if flat is None else flat
        for name, entry in self.entries.items():
            target = flat[entry.offset : entry.offset + entry.floats].reshape(-1, entry.padded)
            target[:, : entry.shape[0]] = np.asarray(tensors[name], np.float32).reshape(entry.shape[0], -1).T
        return flat

    def unpack(self, flat: Float32, names: Iterable[str] | None = None) -> dict[str, Float32]:
        """The tensors back in their shapes, copied."""
        found: dict[str, Float32] = {}
        for name in self.entries if names is None else names:
            entry = self.entries[name]
            source = flat[entry.offset : entry.offset + entry.floats].reshape(-1, entry.padded)
            found[name] = np.ascontiguousarray(source[:, : entry.shape[0]].T).reshape(entry.shape)
        return found
