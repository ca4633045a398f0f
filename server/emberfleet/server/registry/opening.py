"""Opening bundles as devices do: signature first, then digests, then the weights."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Tensors
from emberfleet.core.bundle import Bundle
from emberfleet.core.signing import SigningKey, VerifyKey
from emberfleet.server.registry.publisher import BundleOpener, OpenedModel, Publisher


def open_bundle_with(trusted: tuple[bytes, ...]) -> BundleOpener:
    """An opener that trusts these Ed25519 public keys."""
    keys = [VerifyKey(raw) for raw in trusted]

    def opener(data: bytes) -> OpenedModel:
        bundle = Bundle.open(data, keys)
        tensors = {name: value for name, value in bundle.tensors().items() if value.dtype == np.float32}
        return OpenedModel(bundle.manifest.model_version, tensors, bundle.manifest.plans)

    return opener


def republish_with(key: SigningKey, trusted: tuple[bytes, ...]) -> Publisher:
    """A publisher that rebuilds every part of the bundle, the .tflite included, and signs with `key`."""
    keys = [VerifyKey(raw) for raw in trusted]

    def publisher(current: bytes, tensors: Tensors, version: int) -> bytes:
        from emberfleet.runtime.publishing import republish

        return republish(Bundle.open(current, keys), tensors, version, key)

    return publisher
