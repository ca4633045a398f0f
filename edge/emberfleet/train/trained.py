"""A trained model as a value, and as a folder of three files.

``model.safetensors`` holds the tensors, ``graph.json`` the network, ``train.json`` the rest with
the sha256 of both others. ``train.json`` is written last, so a folder that opens is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.core.errors import FormatError, ShapeError, StorageError
from emberfleet.core.files import read_limited, write_atomically
from emberfleet.core.graph import Graph
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.quantization import quantization_points
from emberfleet.core.tensors import decode_tensors, encode_tensors
from emberfleet.train.documents import MAX_JSON_BYTES, read_document
from emberfleet.train.history import EpochRecord, history_from_json, history_to_json

TENSORS_FILE = "model.safetensors"
GRAPH_FILE = "graph.json"
TRAIN_FILE = "train.json"
FORMAT = 1
MAX_TENSOR_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What converters, the runtime and the server start from.

    Attributes:
        graph: The network.
        tensors: Parameters, running statistics and, once quantized or calibrated, all ranges.
        preprocessing: From pixels to what the network reads.
        classes: K names.
        history: One record per epoch.
        settings: How it was trained, as JSON values.
        figures: What was measured afterwards, e.g. ``test_accuracy``.
    """

    graph: Graph
    tensors: Mapping[str, Float32]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    history: tuple[EpochRecord, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graph.check(self.tensors)
        if len(self.classes) != self.graph.classes:
            raise ShapeError(f"model: {len(self.classes)} class names, the network has {self.graph.classes}")
        if self.preprocessing.shape != self.graph.input.shape:
            raise ShapeError(
                f"model: preprocessing gives images of {self.preprocessing.shape}, "
                f"the network reads {self.graph.input.shape}"
            )

    @property
    def quantized(self) -> bool:
        """Whether every range that int8 needs is known."""
        return set(quantization_points(self.graph).values()) <= set(self.tensors)

    def save(self, folder: str | Path) -> None:
        """Write the folder, made where it is missing; each file whole or not at all.

        Raises:
            StorageError: the folder cannot be made or written.
        """
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {target}: {error.strerror or error}") from error
        parts = {
            TENSORS_FILE: encode_tensors(self.tensors),
            GRAPH_FILE: self.graph.to_json().encode(),
        }
        document = {
            "format": FORMAT,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_json(),
            "figures": dict(self.figures),
            "settings": dict(self.settings),
            "history": history_to_json(self.history),
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
        }
        for name, data in parts.items():
            write_atomically(target / name, data)
        write_atomically(target / TRAIN_FILE, json.dumps(document, indent=1, allow_nan=False).encode())

    @staticmethod
    def load(folder: str | Path) -> TrainedModel:
        """Read a folder that `save` wrote.

        Raises:
            StorageError: a file is missing or cannot be read.
            FormatError: a file is damaged, or the files are not of one run.
        """
        source = Path(folder)
        document = read_document(source / TRAIN_FILE, FORMAT)
        tensors_file = _checked(source / TENSORS_FILE, document, MAX_TENSOR_BYTES)
        graph = Graph.from_json(_checked(source / GRAPH_FILE, document, MAX_JSON_BYTES))
        classes = document.get("classes")
        if not isinstance(classes, list) or not all(type(name) is str for name in classes):
            raise FormatError(f"{source / TRAIN_FILE}: 'classes' is not a list of names")
        settings, figures = document.get("settings"), document.get("figures")
        if not isinstance(settings, dict) or not isinstance(figures, dict):
            raise FormatError(f"{source / TRAIN_FILE}: 'settings' and 'figures' are objects")
        if not all(type(value) in (int, float) for value in figures.values()):
            raise FormatError(f"{source / TRAIN_FILE}: 'figures' are numbers")
        try:
            return TrainedModel(
                graph,
                _float_tensors(tensors_file),
                Preprocessing.from_json(document.get("preprocessing")),
                tuple(classes),
                history_from_json(document.get("history")),
                settings,
                figures,
            )
        except ShapeError as error:
            raise FormatError(f"{source}: {error}") from error


def _checked(path: Path, document: Mapping[str, Any], limit: int) -> bytes:
    """A file's bytes, if their digest is the one that `TRAIN_FILE` names."""
    data = read_limited(path, limit)
    digests = document.get("sha256")
    if not isinstance(digests, dict) or digests.get(path.name) != hashlib.sha256(data).hexdigest():
        raise FormatError(
            f"{path}: does not belong to the {TRAIN_FILE} beside it; train again or copy the whole folder"
        )
    return data


def _float_tensors(data: bytes) -> dict[str, Float32]:
    tensors = decode_tensors(data, MAX_TENSOR_BYTES)
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise FormatError(f"tensor '{name}': dtype is {array.dtype}, expected float32")
        if not np.isfinite(array).all():
            raise FormatError(f"tensor '{name}': holds values that are not finite")
    return tensors
