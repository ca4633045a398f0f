"""Joins the agent to the runtime: samples and settings in, tensors before and after out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emberfleet.agent.agent import Retrain
    from emberfleet.agent.judging import Evaluate
    from emberfleet.agent.models import CheckBundle
    from emberfleet.agent.rounds.training import Retrained
    from emberfleet.agent.samples import Samples
    from emberfleet.core.arrays import Int64, UInt8
    from emberfleet.core.codec import Scalar
    from emberfleet.core.signing import VerifyKey


def check_with(trusted: tuple[VerifyKey, ...]) -> CheckBundle:
    """Verify bundles with the keys that a device trusts."""

    def check(data: bytes) -> int:
        from emberfleet.core.bundle import Bundle

        return Bundle.open(data, trusted).manifest.model_version

    return check


def evaluate_with(
    trusted: tuple[VerifyKey, ...], backend: str = "auto", threads: int | None = None
) -> Evaluate:
    """Measure a bundle as this device would answer with it."""

    def evaluate(bundle: Path, images: UInt8, labels: Int64) -> int:
        from emberfleet.runtime.runtime import Runtime

        predicted = Runtime.open(bundle, trusted, backend, threads=threads).logits(images).argmax(axis=-1)
        right = predicted == labels
        return int(right.all(axis=1).sum() if right.ndim == 2 else right.sum())

    return evaluate


def retrain_with(
    trusted: tuple[VerifyKey, ...],
    backend: str = "auto",
    threads: int | None = None,
    memory_limit_bytes: int | None = None,
) -> Retrain:
    """Retrain on this device's compute backend, chosen at the first round, in as much memory as it gives."""

    def retrain(bundle: Path, samples: Samples, training: Mapping[str, Scalar], seed: int) -> Retrained:
        from emberfleet.agent.rounds.training import Retrained
        from emberfleet.core.bundle import Bundle
        from emberfleet.engine.selection import choose_backend
        from emberfleet.runtime.local_training import train_update
        from emberfleet.runtime.retraining import MemoryBudget, RetrainPlan
        from emberfleet.train.data.dataset import Dataset

        opened = Bundle.open(bundle, trusted)
        data = Dataset(samples.images, samples.labels, opened.manifest.labels)
        plan = RetrainPlan.from_settings(training)
        budget = MemoryBudget(memory_limit_bytes)
        result = train_update(opened, data, plan, seed, choose_backend(backend, threads), budget)
        return Retrained(result.old, result.new, result.sample_count, result.metrics)

    return retrain
