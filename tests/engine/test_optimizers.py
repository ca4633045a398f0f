from __future__ import annotations

from dataclasses import fields, replace
from typing import TypeAlias

import numpy as np
import pytest

from emberfleet.core.arrays import Float64
from emberfleet.engine.optimizers import Adadelta, Adagrad, Adam, AdamW, Optimizer, RmsProp, Sgd, decays

AnyOptimizer: TypeAlias = Sgd | Adam | AdamW | RmsProp | Adagrad | Adadelta

OPTIMIZERS: list[AnyOptimizer] = [
    Sgd(),
    Sgd(weight_decay=0.1),
    Sgd(momentum=0.9, weight_decay=0.01),
    Sgd(momentum=0.9, nesterov=True),
    Adam(),
    Adam(weight_decay=0.1),
    AdamW(),
    RmsProp(),
    RmsProp(momentum=0.9, weight_decay=0.1),
    Adagrad(weight_decay=0.1),
    Adadelta(),
]


def run(optimizer: Optimizer, steps: int = 5, decay: bool = True) -> tuple[Float64, list[Float64]]:
    rng = np.random.default_rng(0)
    parameter = rng.normal(size=(3, 2))
    gradients = [rng.normal(size=(3, 2)) for _ in range(steps)]
    slots = [np.zeros((3, 2)) for _ in range(optimizer.slots)]
    for step, gradient in enumerate(gradients, start=1):
        before = gradient.copy()
        optimizer.apply(parameter, gradient, slots, 0.1, step, decay)
        np.testing.assert_array_equal(gradient, before)
    return parameter, gradients


def test_sgd_with_momentum_follows_its_formula() -> None:
    found, gradients = run(Sgd(momentum=0.5), steps=2)
    start = np.random.default_rng(0).normal(size=(3, 2))
    velocity = gradients[0]
    expected = start - 0.1 * velocity - 0.1 * (0.5 * velocity + gradients[1])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_nesterov_looks_ahead() -> None:
    found, gradients = run(Sgd(momentum=0.5, nesterov=True), steps=1)
    start = np.random.default_rng(0).normal(size=(3, 2))
    np.testing.assert_allclose(found, start - 0.1 * 1.5 * gradients[0], rtol=1e-12)


@pytest.mark.parametrize("optimizer", [Adam(), AdamW(weight_decay=0.0)])
def test_the_first_step_of_adam_is_the_rate_in_the_direction_of_the_sign(optimizer: Optimizer) -> None:
    found, gradients = run(optimizer, steps=1)
    start = np.random.default_rng(0).normal(size=(3, 2))
    np.testing.assert_allclose(found, start - 0.1 * np.sign(gradients[0]), atol=1e-7)


def test_rmsprop_adagrad_and_adadelta_follow_their_formulas() -> None:
    start = np.random.default_rng(0).normal(size=(3, 2))
    found, (g,) = run(RmsProp(), steps=1)
    np.testing.assert_allclose(found, start - 0.1 * g / (np.sqrt(0.01 * g * g) + 1e-8), rtol=1e-12)
    found, (g,) = run(Adagrad(), steps=1)
    np.testing.assert_allclose(found, start - 0.1 * g / (np.abs(g) + 1e-10), rtol=1e-12)
    found, (g,) = run(Adadelta(), steps=1)
    update = g * np.sqrt(1e-6) / np.sqrt(0.1 * g * g + 1e-6)
    np.testing.assert_allclose(found, start - 0.1 * update, rtol=1e-12)


def test_the_decay_of_adamw_is_decoupled_and_that_of_adam_is_not() -> None:
    start = np.random.default_rng(0).normal(size=(3, 2))
    plain, _ = run(AdamW(weight_decay=0.0), steps=1)
    decoupled, _ = run(AdamW(weight_decay=0.5), steps=1)
    np.testing.assert_allclose(decoupled, plain - 0.1 * 0.5 * start, rtol=1e-12)
    coupled, (g,) = run(Adam(weight_decay=0.5), steps=1)
    np.testing.assert_allclose(coupled, start - 0.1 * np.sign(g + 0.5 * start), atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_parameters_that_do_not_decay_ignore_weight_decay(optimizer: AnyOptimizer) -> None:
    without = replace(optimizer, weight_decay=0.0)
    np.testing.assert_array_equal(run(optimizer, decay=False)[0], run(without)[0])


def test_only_weights_decay() -> None:
    assert decays("fire2/squeeze/weight")
    assert not any(decays(f"x/{part}") for part in ("bias", "gamma", "beta"))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_every_update_is_that_of_torch(optimizer: AnyOptimizer) -> None:
    torch = pytest.importorskip("torch", reason="torch is a test oracle only")
    rng = np.random.default_rng(0)
    parameter = torch.tensor(rng.normal(size=(3, 2)), requires_grad=True)
    names = {"momentum", "nesterov", "weight_decay", "alpha", "rho"}
    options = {f.name: getattr(optimizer, f.name) for f in fields(optimizer) if f.name in names}
    kinds = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}
    kind = getattr(torch.optim, kinds.get(optimizer.name, optimizer.name.capitalize()))
    theirs = kind([parameter], lr=0.1, **options)
    for _ in range(5):
        parameter.grad = torch.tensor(rng.normal(size=(3, 2)))
        theirs.step()
    np.testing.assert_allclose(run(optimizer)[0], parameter.detach().numpy(), rtol=1e-10)
