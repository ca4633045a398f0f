"""Labelled images in memory: what every reader returns and every training run takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Array, Int64, UInt8
from emberfleet.core.errors import DataError, ShapeError


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images with one class each, or one class per position of a code.

    Attributes:
        images: ``(N, H, W, C)`` pixels, C is 1 or 3.
        labels: ``(N,)`` class index, or ``(N, P)`` one class index per position.
        classes: The K class names; a label is an index into them.
        writers: ``(N,)`` who made each image, where that is known.

    Raises:
        ShapeError: An array has the wrong type or shape, or the lengths differ.
        DataError: A label is outside ``[0, K)``, or two classes have one name.
    """

    images: UInt8
    labels: Int64
    classes: tuple[str, ...]
    writers: Int64 | None = None

    def __post_init__(self) -> None:
        images, labels, writers = self.images, self.labels, self.writers
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ShapeError(
                f"images are {images.dtype} {images.shape}, expected uint8 (N, H, W, C) with C 1 or 3"
            )
        if labels.dtype != np.int64 or labels.ndim not in (1, 2) or len(labels) != len(images):
            raise ShapeError(
                f"labels are {labels.dtype} {labels.shape}, expected int64 ({len(images)},) or "
                f"({len(images)}, P): one row for each of the {len(images)} images"
            )
        if writers is not None and (writers.dtype != np.int64 or writers.shape != (len(images),)):
            raise ShapeError(f"writers are {writers.dtype} {writers.shape}, expected int64 ({len(images)},)")
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"two classes have the same name among {list(self.classes)[:20]}")
        outside = np.argwhere((labels < 0) | (labels >= len(self.classes)))
        if len(outside):
            where = tuple(int(i) for i in outside[0])
            raise DataError(
                f"label {labels[where]} of image {where[0]} is outside the {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def positions(self) -> int | None:
        """Characters of a code, or None where an image has one class."""
        return int(self.labels.shape[1]) if self.labels.ndim == 2 else None

    def class_counts(self) -> Int64:
        """``(K,)`` how often each class occurs, over all positions."""
        return np.bincount(self.labels.ravel().astype(np.intp), minlength=len(self.classes)).astype(np.int64)

    def subset(self, indices: Sequence[int] | Array) -> Dataset:
        """The images at `indices`, in that order; a boolean mask of length N selects too."""
        chosen = np.asarray(indices)
        if chosen.size == 0 and chosen.dtype != np.bool_:
            chosen = chosen.astype(np.int64)
        writers = None if self.writers is None else self.writers[chosen]
        return Dataset(self.images[chosen], self.labels[chosen], self.classes, writers)

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Put `fraction` of every class aside: ``(the rest, the part put aside)``.

        The whole part holds ``round(fraction * N)`` images; what a class's own share leaves over
        goes to the classes with the largest remainders. Codes (labels of several positions) are
        split at random, as their combinations are too many to stratify. Both parts keep the
        original order. The same seed gives the same parts.

        Raises:
            DataError: `fraction` is not between 0 and 1.
        """
        if not 0.0 <= fraction <= 1.0:
            raise DataError(f"cannot put a fraction of {fraction} aside, expected 0 to 1")
        generator = np.random.default_rng(seed)
        groups = self.labels if self.labels.ndim == 1 else np.zeros(len(self), np.int64)
        sizes = np.bincount(groups.astype(np.intp), minlength=1)
        shares = fraction * sizes
        takes = np.floor(shares).astype(np.int64)
        left = round(fraction * len(self)) - int(takes.sum())
        takes[np.argsort(takes - shares, kind="stable")[:left]] += 1
        aside = np.zeros(len(self), np.bool_)
        for group, take in enumerate(takes):
            members = np.flatnonzero(groups == group)
            aside[generator.permutation(members)[:take]] = True
        return self.subset(~aside), self.subset(aside)
