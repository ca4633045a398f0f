"""From the mean change to the next model: each optimizer against its formula, and on digits to be learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from emberfleet.core.errors import RoundError
from emberfleet.core.tensors import decode_tensors, encode_tensors
from emberfleet.server.aggregate.optimizers import OPTIMIZERS, next_model
from emberfleet.train.data.names import load
from tests.digits import DIGITS


@dataclass(frozen=True)
class Settings:
    server_optimizer: str
    server_rate: float = 1.0
    server_momentum: float = 0.0
    server_beta2: float = 0.99
    server_tau: float = 1e-3


OLD = {"conv/weight": np.full(3, 1.0, np.float32), "norm/variance": np.full(3, 0.5, np.float32)}
PLAIN = Settings("fedavg")
STATEFUL = ("fedavgm", "fedadam", "fedyogi")


def change(weight: float, variance: float = 0.0) -> dict[str, np.ndarray]:
    return {"conv/weight": np.full(3, weight, np.float32), "norm/variance": np.full(3, variance, np.float32)}


def run(settings: Settings, changes: list[float], start: float = 0.0) -> list[float]:
    """A weight after each round; the state goes through the file format that it is kept in."""
    model = {"w/weight": np.full((2, 2), start, np.float32)}
    state: dict[str, np.ndarray] = {}
    found = []
    for value in changes:
        model, state = next_model(model, {"w/weight": np.full((2, 2), value, np.float32)}, state, settings)
        state = dict(decode_tensors(encode_tensors(state))) if state else {}
        assert np.ptp(model["w/weight"]) == 0
        found.append(float(model["w/weight"][0, 0]))
    return found


def plain_run(settings: Settings, changes: list[float], start: float = 0.0) -> list[float]:
    """The twin: one number at a time, as the papers write it."""
    x, m, v = start, 0.0, settings.server_tau**2
    b1, b2 = settings.server_momentum, settings.server_beta2
    found = []
    for d in changes:
        if settings.server_optimizer == "fedavg":
            m = d
        elif settings.server_optimizer == "fedavgm":
            m = b1 * m + d
        else:
            m = b1 * m + (1 - b1) * d
            if settings.server_optimizer == "fedadam":
                v = b2 * v + (1 - b2) * d**2
            else:
                v = v - (1 - b2) * d**2 * ((v > d**2) - (v < d**2))
            x += settings.server_rate * m / (math.sqrt(v) + settings.server_tau)
            found.append(x)
            continue
        x += settings.server_rate * m
        found.append(x)
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("momentum", "rate", "tau"), [(0.0, 1.0, 1e-3), (0.9, 0.1, 1e-3), (0.5, 0.3, 0.1)])
def test_ten_rounds_equal_the_plain_twin(optimizer: str, momentum: float, rate: float, tau: float) -> None:
    changes = np.random.default_rng(3).normal(0, 0.1, 10).tolist()
    settings = Settings(optimizer, rate, momentum, 0.95, tau)
    np.testing.assert_allclose(run(settings, changes), plain_run(settings, changes), rtol=1e-5, atol=1e-6)


def test_fedadam_of_a_constant_change_follows_its_closed_form() -> None:
    b1, b2, tau, d = 0.9, 0.99, 1e-3, 0.25
    steps = [(1 - b1**t) * d / (math.sqrt(b2**t * tau**2 + (1 - b2**t) * d**2) + tau) for t in range(1, 6)]
    found = run(Settings("fedadam", 0.5, b1, b2, tau), [d] * 5)
    np.testing.assert_allclose(found, 0.5 * np.cumsum(steps), rtol=1e-6)
    assert found[0] == pytest.approx(0.5 * 0.025 / (math.sqrt(0.99e-6 + 0.000625) + 0.001), rel=1e-6)


def test_fedyogi_of_a_constant_change_rises_in_equal_steps() -> None:
    b1, b2, tau, d = 0.9, 0.99, 1e-3, 0.25
    steps = [(1 - b1**t) * d / (math.sqrt(tau**2 + t * (1 - b2) * d**2) + tau) for t in range(1, 6)]
    found = run(Settings("fedyogi", 0.5, b1, b2, tau), [d] * 5)
    np.testing.assert_allclose(found, 0.5 * np.cumsum(steps), rtol=1e-6)


def test_fedyogi_forgets_a_large_change_slower_than_fedadam() -> None:
    # After one change of 1 the second moment is about 0.5; the small changes after it hardly lower Yogi's.
    changes = [1.0] + [0.01] * 20
    steps = {
        name: np.diff(run(Settings(name, 1.0, 0.0, 0.5), changes))[-1] for name in ("fedadam", "fedyogi")
    }
    assert steps["fedyogi"] == pytest.approx(0.01 / (math.sqrt(0.5 - 20 * 0.5e-4) + 1e-3), rel=1e-3)
    assert steps["fedadam"] > 10 * steps["fedyogi"]


def test_without_momentum_the_mean_is_added_as_it_is() -> None:
    new, state = next_model(OLD, change(0.25, -0.125), {}, PLAIN)
    np.testing.assert_array_equal(new["conv/weight"], 1.25)
    np.testing.assert_array_equal(new["norm/variance"], 0.375)
    assert state == {}


def test_momentum_adds_what_is_left_of_earlier_rounds() -> None:
    assert run(Settings("fedavgm", 1.0, 0.5), [1.0] * 3, 1.0) == pytest.approx([2.0, 3.5, 5.25])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_measurements_take_the_mean_as_it_is(optimizer: str) -> None:
    settings = Settings(optimizer, 0.5, 0.9)
    state: dict[str, np.ndarray] = {}
    model: dict[str, np.ndarray] = {
        **OLD,
        "norm/mean": np.zeros(3, np.float32),
        "x/range": np.zeros(2, np.float32),
    }
    moved = {**change(1.0, 0.1), "norm/mean": np.ones(3, np.float32), "x/range": np.ones(2, np.float32)}
    for _ in range(2):
        model, state = next_model(model, moved, state, settings)
    np.testing.assert_allclose(model["norm/variance"], 0.7, rtol=1e-6)
    np.testing.assert_array_equal(model["norm/mean"], 2.0)
    np.testing.assert_array_equal(model["x/range"], 2.0)
    assert all(key.endswith("conv/weight") for key in state)


def test_a_variance_never_falls_below_zero() -> None:
    new, _ = next_model(OLD, change(0.0, -2.0), {}, PLAIN)
    np.testing.assert_array_equal(new["norm/variance"], 0.0)


def test_tensors_without_a_change_stay() -> None:
    new, _ = next_model(OLD, {"conv/weight": np.ones(3, np.float32)}, {}, PLAIN)
    np.testing.assert_array_equal(new["norm/variance"], OLD["norm/variance"])


@pytest.mark.parametrize("optimizer", STATEFUL)
def test_state_of_another_shape_or_optimizer_starts_anew(optimizer: str) -> None:
    settings = Settings(optimizer, 1.0, 0.9)
    fresh, kept = next_model(OLD, change(1.0), {}, settings)
    other = {key: np.full(4, 7.0, np.float32) for key in kept}
    other |= {f"else/momentum/{name}": np.full(3, 7.0, np.float32) for name in OLD}
    found, _ = next_model(OLD, change(1.0), other, settings)
    np.testing.assert_array_equal(found["conv/weight"], fresh["conv/weight"])
    same, _ = next_model(OLD, change(1.0), kept, settings)
    assert (same["conv/weight"] != fresh["conv/weight"]).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_neither_the_old_model_nor_the_state_is_written_to(optimizer: str) -> None:
    settings = Settings(optimizer, 1.0, 0.9)
    _, state = next_model(OLD, change(1.0, 1.0), {}, settings)
    before = {name: value.copy() for name, value in state.items()}
    next_model(OLD, change(2.0, 1.0), state, settings)
    np.testing.assert_array_equal(OLD["conv/weight"], 1.0)
    for name, value in before.items():
        np.testing.assert_array_equal(state[name], value)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_change_keeps_the_weights(optimizer: str) -> None:
    new, _ = next_model(OLD, change(0.0), {}, Settings(optimizer, 1.0, 0.9))
    np.testing.assert_array_equal(new["conv/weight"], OLD["conv/weight"])


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_model_that_is_not_finite_is_refused(optimizer: str) -> None:
    with pytest.raises(RoundError, match="not finite"):
        next_model(OLD, change(np.inf), {}, Settings(optimizer))


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(RoundError, match="no optimizer 'fedfoo'"):
        next_model(OLD, change(1.0), {}, Settings("fedfoo"))


def people(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Handwritten digits of some people, each shrunk to 7 x 7 and a constant: a device's samples."""
    data = load("handwriting", DIGITS, "train")
    assert data.writers is not None
    shrunk = data.images.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49) / 255.0
    pixels = np.concatenate([shrunk, np.ones((len(shrunk), 1))], axis=1)
    chosen = np.unique(data.writers)[:count]
    return [(pixels[data.writers == one], data.labels[data.writers == one]) for one in chosen]


def loss_and_gradient(w: np.ndarray, x: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Of a linear classifier with softmax, in the mean over the samples."""
    logits = x @ w
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(len(x))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return float(loss), x.T @ p / len(x)


@pytest.mark.parametrize(
    ("optimizer", "rate", "momentum", "expected"),
    [
        ("fedavg", 1.0, 0.0, 2.0),
        ("fedavgm", 1.0, 0.8, 1.3),
        ("fedadam", 0.1, 0.8, 0.5),
        ("fedyogi", 0.1, 0.8, 0.5),
    ],
)
def test_each_optimizer_learns_the_digits_of_ten_people(
    optimizer: str, rate: float, momentum: float, expected: float
) -> None:
    settings = Settings(optimizer, rate, momentum)
    devices = people(10)
    model = {"w/weight": np.zeros((50, 10), np.float32)}
    state: dict[str, np.ndarray] = {}
    losses: list[float] = []
    for _ in range(30):
        changes = []
        for x, labels in devices:
            w = model["w/weight"].astype(np.float64)
            for _ in range(3):
                w -= 0.1 * loss_and_gradient(w, x, labels)[1]
            changes.append(w - model["w/weight"])
        mean = {"w/weight": np.mean(changes, axis=0).astype(np.float32)}
        model, state = next_model(model, mean, state, settings)
        losses.append(
            float(np.mean([loss_and_gradient(model["w/weight"], *device)[0] for device in devices]))
        )
    assert losses[-1] < expected < losses[0]
    assert losses[-1] == pytest.approx(min(losses), rel=0.02)
