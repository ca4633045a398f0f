"""All optimizers as one kernel with a rule: records the launch, computes the numbers of each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Float32, Int32
from emberfleet.core.errors import ConfigError
from emberfleet.engine.opencl.parameters import ParameterBlock
from emberfleet.engine.opencl.program import Program
from emberfleet.engine.optimizers import Adadelta, Adagrad, Adam, AdamW, Optimizer, RmsProp, Sgd, decays

JOB_FLOATS = 8192
"""Parameters of one job, which a group (gpu: several) updates: few enough to keep all cores busy."""

RATES_ARGUMENT = 6
"""Index of the kernel's argument that changes with each step."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Compile-time constants of `update_f32`."""

    rule: int
    proximal: int
    v: int


@dataclass(frozen=True, slots=True)
class Gradient:
    """Where the partial sums of one parameter's gradient lie."""

    offset: int
    parts: int
    floats: int


RULES: Mapping[type, int] = {Sgd: 0, Adam: 1, AdamW: 2, RmsProp: 3, Adagrad: 4, Adadelta: 5}


def record(
    program: Program, optimizer: Optimizer, params: ParameterBlock, jobs: Int32, proximal: bool = False
) -> None:
    """Record the update of all parameters in `jobs`; the rates are set before each step.

    With `proximal` they are pulled to the buffer ``anchor``, which else need not exist.
    """
    rule = RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(sorted(kind.__name__ for kind in RULES))
        raise ConfigError(f"the OpenCL backend does not know the optimizer {optimizer!r}; it has: {known}")
    cuts = program.device.cuts(len(jobs), JOB_FLOATS // (program.device.lanes * program.vector))
    program.emit(
        "optimizer",
        "update_f32",
        (len(jobs), cuts),
        *("params", "gradients", "slots", "update_jobs", params.floats, _constants(optimizer), (0.0,) * 4),
        *(("anchor",) if proximal else ()),
        options=Rule(rule, int(proximal), program.vector),
    )


def job_table(params: ParameterBlock, gradients: Mapping[str, Gradient]) -> Int32:
    """Rows of the kernel's table: stretches of the parameters that learn."""
    rows: list[tuple[int, ...]] = []
    for name, gradient in gradients.items():
        entry = params.entries[name]
        for start in range(0, entry.floats, JOB_FLOATS):
            count = min(JOB_FLOATS, entry.floats - start)
            rows.append(
                (
                    *(entry.offset + start, count, gradient.offset + start, gradient.parts, gradient.floats),
                    *(int(decays(name)), 0, 0),
                )
            )
    return np.array(rows, np.int32).reshape(-1, 8)


def rates(optimizer: Optimizer, rate: float, step: int, proximal: float = 0.0) -> Float32:
    """What the kernel is told of one step, counted from 1; `proximal` as in `TrainingSpec`."""
    decay = optimizer.weight_decay
    root = 0.0
    if isinstance(optimizer, AdamW):
        decay *= rate
    if isinstance(optimizer, (Adam, AdamW)):
        root = (1.0 - optimizer.beta2**step) ** -0.5
        rate /= 1.0 - optimizer.beta1**step
    return np.array([rate, decay, root, proximal], np.float32)


def slot_names(optimizer: Optimizer, names: Iterable[str]) -> tuple[tuple[int, str], ...]:
    """Slot number and parameter of every slot."""
    learned = tuple(names)
    return tuple((slot, name) for slot in range(optimizer.slots) for name in learned)


def _constants(optimizer: Optimizer) -> tuple[float, float, float, float]:
    match optimizer:
        case Sgd():
            return optimizer.momentum, 0.0, 0.0, float(optimizer.nesterov)
        case Adam() | AdamW():
            return optimizer.beta1, optimizer.beta2, optimizer.epsilon, 0.0
        case RmsProp():
            return optimizer.alpha, optimizer.momentum, optimizer.epsilon, 0.0
        case Adagrad():
            return 0.0, 0.0, optimizer.epsilon, 0.0
        case Adadelta():
            return optimizer.rho, 0.0, optimizer.epsilon, 0.0
    raise ConfigError(f"the OpenCL backend does not know the optimizer {optimizer!r}")
