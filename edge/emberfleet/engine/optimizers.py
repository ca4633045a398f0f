"""Optimizers as values, each with one reference update that follows torch's definition.

An optimizer keeps no arrays: slots (momentum and the like, zero at the start) are held by the
trainer, one array per slot and parameter. `step` counts updates from 1.

Weight decay of Sgd, Adam, RmsProp, Adagrad and Adadelta is L2: ``decay * parameter`` is added to
the gradient. AdamW's is decoupled: the parameter shrinks by ``rate * decay`` first. Only weights
decay; biases and batch norm's gamma and beta do not (`decays`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from emberfleet.core.arrays import Real


class Optimizer(Protocol):
    """What a trainer asks of an optimizer."""

    @property
    def name(self) -> str:
        """As in a plan or on the command line: ``sgd``, ``adam`` ..."""

    @property
    def slots(self) -> int:
        """How many arrays of the parameter's shape it keeps."""

    @property
    def weight_decay(self) -> float:
        """Strength of the decay of weights."""

    def apply(
        self,
        parameter: Real,
        gradient: Real,
        slots: Sequence[Real],
        rate: float,
        step: int,
        decay: bool = True,
    ) -> None:
        """Update the parameter and its slots in place; the gradient stays as it is.

        Args:
            parameter: Any shape, changed in place.
            gradient: Of the loss with respect to the parameter, same shape.
            slots: `self.slots` arrays of the same shape, changed in place.
            rate: Learning rate.
            step: 1 for the first update.
            decay: Whether `weight_decay` applies to this parameter.
        """


def decays(name: str) -> bool:
    """Whether weight decay applies to the parameter of this name: only to weights."""
    return name.endswith("/weight")


def _with_l2(parameter: Real, gradient: Real, weight_decay: float, decay: bool) -> Real:
    return gradient + weight_decay * parameter if weight_decay and decay else gradient


@dataclass(frozen=True, slots=True)
class Sgd:
    """``b = momentum * b + g;  p -= rate * b``, with Nesterov ``p -= rate * (g + momentum * b)``."""

    name: ClassVar[str] = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    @property
    def slots(self) -> int:
        """The velocity, when there is momentum."""
        return 1 if self.momentum else 0

    def apply(
        self,
        parameter: Real,
        gradient: Real,
        slots: Sequence[Real],
        rate: float,
        step: int,
        decay: bool = True,
    ) -> None:
        """See `Optimizer.apply`."""
        g = _with_l2(parameter, gradient, self.weight_decay, decay)
        if self.momentum:
            (velocity,) = slots
            velocity *= self.momentum
            velocity += g
            g = g + self.momentum * velocity if self.nesterov else velocity
        parameter -= rate * g


@dataclass(frozen=True, slots=True)
class Adam:
    """Step size by the first two moments of each gradient.

    ``m = beta1*m + (1-beta1)*g;  v = beta2*v + (1-beta2)*g*g``
    ``p -= rate * m/(1-beta1^t) / (sqrt(v/(1-beta2^t)) + epsilon)``

    Source: Kingma & Ba 2015, arXiv:1412.6980, algorithm 1.
    """

    name: ClassVar[str] = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    @property
    def slots(self) -> int:
        """First and second moment."""
        return 2

    def apply(
        self,
        parameter: Real,
        gradient: Real,
        slots: Sequence[Real],
        rate: float,
        step: int,
        decay: bool = True,
    ) -> None:
        """See `Optimizer.apply`."""
        g = _with_l2(parameter, gradient, self.weight_decay, decay)
        _adam(parameter, g, slots, rate, step, (self.beta1, self.beta2, self.epsilon))


@dataclass(frozen=True, slots=True)
class AdamW:
    """`Adam` after ``p *= 1 - rate * weight_decay``. Source: Loshchilov & Hutter 2019."""

    name: ClassVar[str] = "adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    @property
    def slots(self) -> int:
        """First and second moment."""
        return 2

    def apply(
        self,
        parameter: Real,
        gradient: Real,
        slots: Sequence[Real],
        rate: float,
        step: int,
        decay: bool = True,
    ) -> None:
        """See `Optimizer.apply`."""
        if self.weight_decay and decay:
            parameter *= 1.0 - rate * self.weight_decay
        _adam(parameter, gradient, slots, rate, step, (self.beta1, self.beta2, self.epsilon))


@dataclass(frozen=True, slots=True)
class RmsProp:
    """``v = alpha*v + (1-alpha)*g*g;  u = g / (sqrt(v) + epsilon);  b = momentum*b + u;  p -= rate*b``."""

    name: ClassVar[str] = "rmsprop"
    alpha: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0

    @property
    def slots(self) -> int:
        """The mean square, and the velocity when there is momentum."""
        return 2 if self.momentum else 1

    def apply(
        self,
        parameter: Real,
        gradient: Real,
        slots: Sequence[Real],
        rate: float,
        step: int,
        decay: bool = True,
    ) -> None:
        """See `Optimizer.apply`."""
        g = _with_l2(parameter, gradient, self.weight_decay, decay)
        square = slots[0]
        square *= self.alpha
        square += (1.0 - self.alpha) * (g * g)
        root = np.sqrt(square)
        root += self.epsilon
        update = np.divide(g, root, out=root)
        if self.momentum:
            velocity = slots[1]
            velocity *= self.momentum
            velocity += update
            update = velocity
        parameter -= rate * update


@dataclass(frozen=True, slots=True)
class Adagrad:
    """``s += g*g;  p -= rate * g / (sqrt(s) + epsilon)``. Source: Duchi et al. 2011."""

    name: ClassVar[str] = "adagrad"
    epsilon: float = 1e-10
    weight_decay: float = 0.0

    @property
    def slots(self) -> int:
        """The sum of squares."""
        return 1

    def apply(
        self,
        parameter: Real,
        gradient: Real,
        slots: Sequence[Real],
        rate: float,
        step: int,
        decay: bool = True,
    ) -> None:
        """See `Optimizer.apply`."""
        g = _with_l2(parameter, gradient, self.weight_decay, decay)
        (total,) = slots
        total += g * g
        root = np.sqrt(total)
        root += self.epsilon
        parameter -= rate * np.divide(g, root, out=root)


@dataclass(frozen=True, slots=True)
class Adadelta:
    """Step size by the mean square of past updates over that of past gradients.

    ``s = rho*s + (1-rho)*g*g;  d = g * sqrt(a+epsilon) / sqrt(s+epsilon)``
    ``a = rho*a + (1-rho)*d*d;  p -= rate*d``

    Source: Zeiler 2012, arXiv:1212.5701, algorithm 1.
    """

    name: ClassVar[str] = "adadelta"
    rho: float = 0.9
    epsilon: float = 1e-6
    weight_decay: float = 0.0

    @property
    def slots(self) -> int:
        """Mean square of the gradients, and of the updates."""
        return 2

    def apply(
        self,
        parameter: Real,
        gradient: Real,
        slots: Sequence[Real],
        rate: float,
        step: int,
        decay: bool = True,
    ) -> None:
        """See `Optimizer.apply`."""
        g = _with_l2(parameter, gradient, self.weight_decay, decay)
        square, moved = slots
        square *= self.rho
        square += (1.0 - self.rho) * (g * g)
        update = np.sqrt(moved + self.epsilon)
        update /= np.sqrt(square + self.epsilon)
        update *= g
        moved *= self.rho
        moved += (1.0 - self.rho) * (update * update)
        parameter -= rate * update


def _adam(
    parameter: Real,
    gradient: Real,
    slots: Sequence[Real],
    rate: float,
    step: int,
    constants: tuple[float, float, float],
) -> None:
    beta1, beta2, epsilon = constants
    mean, square = slots
    work = gradient * (1.0 - beta1)
    mean *= beta1
    mean += work
    np.multiply(gradient, gradient, out=work)
    work *= 1.0 - beta2
    square *= beta2
    square += work
    np.sqrt(square, out=work)
    work *= (1.0 - beta2**step) ** -0.5
    work += epsilon
    np.divide(mean, work, out=work)
    work *= rate / (1.0 - beta1**step)
    parameter -= work
