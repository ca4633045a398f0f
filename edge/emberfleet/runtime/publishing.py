"""The next version of a published model: the same network, other weights, signed again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from emberfleet.converters.bundle import build_bundle, model_of
from emberfleet.core.arrays import Tensors
from emberfleet.core.bundle import Bundle
from emberfleet.core.errors import ConfigError
from emberfleet.core.signing import SigningKey
from emberfleet.runtime.retraining import with_tensors


def republish(
    bundle: Bundle,
    tensors: Tensors,
    version: int,
    key: SigningKey,
    *,
    metrics: Mapping[str, float] | None = None,
    created: datetime | None = None,
) -> bytes:
    """Make the bundle that follows `bundle`.

    Graph, labels, preprocessing, name and plans stay; weights, .tflite and the OpenCL part are made
    anew, and the parent is `bundle`.

    Args:
        bundle: What is published now, opened.
        tensors: New values of some or all float tensors; those left out stay.
        version: Higher than that of `bundle`.
        key: Signs the new manifest.
        metrics: Measurements of the new model; the old ones are not carried over.
        created: When; None: now.

    Raises:
        ConfigError: a version that is not higher, or a tensor the model does not have.
        ShapeError: a tensor of another shape.
        QuantError: weights or ranges that int8 cannot express, such as infinities.
    """
    manifest = bundle.manifest
    if version <= manifest.model_version:
        raise ConfigError(f"version is {version}, expected more than {manifest.model_version}, which is out")
    model = model_of(bundle)
    unknown = sorted(set(tensors) - set(model.tensors))
    if unknown:
        raise ConfigError(f"the model has no tensor named {', '.join(unknown[:5])}")
    return build_bundle(
        with_tensors(model, {**model.tensors, **tensors}),
        version,
        key,
        name=manifest.model_name,
        plans=manifest.plans,
        metrics=metrics or {},
        created=created,
        parent=bundle.digest,
    )
