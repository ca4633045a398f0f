"""Chooses what a training step computes twice, so that its arena stays under a limit.

Memory matters only at the fullest moment. As long as the arena is too large, one more storage is
given up: of those that lie idle at that moment between their last reader of the forward pass and
their first of the backward pass, the one that frees the most bytes for the work of computing it
again. The step is recorded anew each time, so what is judged is the arena that it would really
have. At the end, what has become unnecessary is kept again.

Source: the idea of trading recomputation for memory: Chen et al. 2016, arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable, Set

from emberfleet.engine.memory import ArenaPlan, align, limit_error
from emberfleet.engine.opencl.recall import Tensor, step_work
from emberfleet.engine.opencl.training_step import TrainingStep


def fit(record: Callable[[frozenset[str]], TrainingStep], limit_bytes: int | None) -> TrainingStep:
    """The training step whose arena takes at most `limit_bytes`, with as little work as was found.

    Args:
        record: Records the step that gives up the storages of these labels.
        limit_bytes: Of the arena; None: no limit, nothing is computed twice.

    Raises:
        ConfigError: no plan is small enough; says what the smallest one takes.
    """
    step = record(frozenset())
    if limit_bytes is None:
        return step
    passing = _passing(step)
    dropped: frozenset[str] = frozenset()
    plan = step.program.plan()
    smallest = plan.size_bytes
    while plan.size_bytes > limit_bytes:
        found = _shrink(record, step, plan, dropped, passing)
        if found is None:
            raise limit_error(smallest, step.program.batch, limit_bytes)
        dropped, step, plan = found
        smallest = min(smallest, plan.size_bytes)
    for label in sorted(dropped, key=lambda name: -_cost(step, frozenset((name,)) | passing)):
        fewer = dropped - {label}
        trial = record(fewer | passing)
        if trial.program.plan().size_bytes <= limit_bytes:
            dropped, step = fewer, trial
    return step


def _shrink(
    record: Callable[[frozenset[str]], TrainingStep],
    step: TrainingStep,
    plan: ArenaPlan,
    dropped: frozenset[str],
    passing: frozenset[str],
) -> tuple[frozenset[str], TrainingStep, ArenaPlan] | None:
    """Give up one more storage, such that the fullest moment is no fuller; None: nothing is left to do.

    Or keep one again: to compute it anew may need more than it takes itself.
    """
    before = _cost(step, dropped | passing)
    idle = {label: size for label, size in _idle(step, plan).items() if label not in dropped}

    def price(label: str) -> float:
        return (_cost(step, dropped | passing | {label}) - before) / idle[label]

    for label in sorted(idle, key=lambda name: (price(name), name)):
        more = dropped | {label}
        trial = record(more | passing)
        found = trial.program.plan()
        if found.bound_bytes <= plan.bound_bytes:
            return more, trial, found
    for label in sorted(dropped):
        fewer = dropped - {label}
        trial = record(fewer | passing)
        found = trial.program.plan()
        if found.bound_bytes < plan.bound_bytes:
            return fewer, trial, found
    return None


def _passing(step: TrainingStep) -> frozenset[str]:
    """Labels that backward never reads: they are not kept for it, so they cannot be read there for free."""
    read = {step.steps.labels[tensor] for tensor in step.recall.demanded}
    return frozenset(step.steps.labels.values()) - read - {step.steps.given}


def _idle(step: TrainingStep, plan: ArenaPlan) -> dict[str, int]:
    """Bytes of the storages that wait for backward at the fullest moment, by label."""
    moment = plan.fullest_step - 1
    known = set(step.steps.labels.values()) - {step.steps.given}
    found: dict[str, int] = {}
    for storage, positions in step.program.uses().items():
        forward = [at for at in positions if at < step.turn]
        backward = [at for at in positions if at >= step.turn]
        if storage.label in known and forward and backward and forward[-1] < moment < backward[0]:
            found[storage.label] = align(storage.floats * step.program.element_bytes)
    return found


def _cost(step: TrainingStep, dropped: Set[str]) -> int:
    """Work of computing again what backward reads of these labels."""
    done: set[Tensor] = set()
    return sum(
        step_work(repeated, step.values)
        for tensor in step.recall.demanded
        for repeated in step.steps.missing(tensor, dropped, done)
    )
