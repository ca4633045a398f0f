"""How the next version of a model is made: a callable that the caller provides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from emberfleet.core.arrays import Float32, Tensors


class Publisher(Protocol):
    """Makes a signed bundle of the same network with other weights."""

    def __call__(self, current: bytes, tensors: Tensors, version: int) -> bytes:
        """Build the bundle of `version`.

        Args:
            current: The bundle that is published now: graph, labels, preprocessing stay as in it.
            tensors: All tensors of the new model.
            version: The number that goes into the signed manifest.
        """


class Evaluator(Protocol):
    """Measures a published bundle, such as its accuracy on a test set of the server's owner."""

    def __call__(self, bundle: bytes) -> Mapping[str, float]:
        """Named finite numbers for the rounds table, such as ``accuracy``."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """What the server needs of a bundle."""

    version: int
    tensors: Mapping[str, Float32]
    scopes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class BundleOpener(Protocol):
    """Verifies a bundle and takes out its version and tensors."""

    def __call__(self, data: bytes) -> OpenedModel:
        """Raise `SignatureError` or `FormatError` for a bundle that devices would refuse."""
