"""The device's own samples: images with labels, kept as safetensors files, never sent.

A sample belongs to the held-out part by the digest of its own pixels, so it stays there however many
are added later, and the same picture can never be on both sides.

numpy is imported where samples are touched: a device that waits for work does without its 14 MiB.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from emberfleet.core.errors import DataError, EmberError
from emberfleet.core.files import read_limited, write_atomically

if TYPE_CHECKING:
    from emberfleet.core.arrays import Int64, UInt8

HELD_OUT_SHARE: Final = 0.2
MAX_FILE_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Samples:
    """A device's samples, split.

    Attributes:
        images: ``(N, H, W, C)`` uint8, to train on.
        labels: ``(N,)`` class index, or ``(N, P)`` one class per position.
        held_images: As `images`, to measure with.
        held_labels: As `labels`.
    """

    images: UInt8
    labels: Int64
    held_images: UInt8
    held_labels: Int64

    def __len__(self) -> int:
        """How many samples there are to train on."""
        return len(self.images)


class SampleStore:
    """The samples in a device's folder."""

    def __init__(self, folder: Path, held_out: float = HELD_OUT_SHARE) -> None:
        """Open the store; the folder is made with the first samples.

        Args:
            folder: The store's own.
            held_out: Share of samples that are not trained on.
        """
        self._folder = folder
        self._held_out = held_out

    def add(self, images: UInt8, labels: Int64) -> int:
        """Keep samples; returns how many. Adding the same batch again changes nothing.

        Raises:
            DataError: Wrong types or shapes, or another image size than what is there.
        """
        import numpy as np

        from emberfleet.core.tensors import encode_tensors

        if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
            raise DataError(f"samples: images are {images.dtype} {images.shape}, expected uint8 (N, H, W, C)")
        if labels.ndim not in (1, 2) or labels.dtype != np.int64 or len(labels) != len(images):
            raise DataError(
                f"samples: labels are {labels.dtype} {labels.shape}, expected int64, one per image"
            )
        if labels.min() < 0:
            raise DataError("samples: a label below 0")
        files = self._files()
        if files:
            there = self._read(files[0])
            if there[0].shape[1:] != images.shape[1:] or there[1].shape[1:] != labels.shape[1:]:
                raise DataError(
                    f"samples: images of {images.shape[1:]}, expected {there[0].shape[1:]} as before"
                )
        data = encode_tensors({"images": images, "labels": labels})
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._folder / f"{hashlib.sha256(data).hexdigest()[:32]}.safetensors", data, 0o600)
        return len(images)

    def load(self) -> Samples:
        """All samples, in an order that depends on their contents alone.

        Raises:
            DataError: There are none, or a file is damaged.
        """
        import numpy as np

        files = self._files()
        if not files:
            raise DataError(f"{self._folder} holds no samples: add some with emberfleet device add-samples")
        parts = [self._read(path) for path in files]
        images = np.concatenate([part[0] for part in parts])
        labels = np.concatenate([part[1] for part in parts])
        held = np.array([self._is_held_out(image) for image in images])
        if held.all() or (not held.any() and len(images) > 1):
            held = np.arange(len(images)) == 0 if len(images) > 1 else np.zeros(1, bool)
        return Samples(images[~held], labels[~held], images[held], labels[held])

    def __len__(self) -> int:
        """How many samples are kept, both parts."""
        return sum(len(self._read(path)[1]) for path in self._files())

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.safetensors")) if self._folder.is_dir() else []

    def _read(self, path: Path) -> tuple[UInt8, Int64]:
        import numpy as np

        from emberfleet.core.tensors import decode_tensors

        try:
            tensors = decode_tensors(read_limited(path, MAX_FILE_BYTES))
        except EmberError as error:
            raise DataError(f"{path}: not a file of samples: {error}") from error
        images, labels = tensors.get("images"), tensors.get("labels")
        if images is None or labels is None or images.dtype != np.uint8 or labels.dtype != np.int64:
            raise DataError(f"{path}: expected images (uint8) and labels (int64)")
        return images, labels

    def _is_held_out(self, image: UInt8) -> bool:
        first = hashlib.sha256(image.tobytes()).digest()[:4]
        return int.from_bytes(first, "big") < self._held_out * 2**32
