from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, GlobalAveragePool, Input, MaxPool, Relu
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.opencl import tuning
from emberfleet.engine.opencl.conv2d import ForwardWork, WeightWork
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.predictor import record
from emberfleet.engine.opencl.program import Program
from emberfleet.engine.opencl.recording import record_training
from emberfleet.engine.opencl.tiles import ForwardShape, ForwardTile, forward_candidates, weight_candidates
from emberfleet.engine.opencl.trainer import OpenCLTrainer
from emberfleet.engine.opencl.tuned_tiles import Shape, Tile
from emberfleet.engine.opencl.tuning import Timer, Trial, distinct_works, tune
from emberfleet.engine.optimizers import Sgd
from tests.core.networks import SAME3
from tests.engine.networks import random_batch, single_tensors
from tests.engine.tolerance import assert_close

BATCH = 2
SPEC = TrainingSpec(BATCH, Sgd())
PLENTY_S = 1e6


def network() -> Graph:
    """Strides, padding, a bias, 1x1 and 3x3 windows; channels that fill whole vectors."""
    return Graph(
        (
            Input("image", (), (11, 11, 3)),
            Conv2D("stem", ("image",), 32, (3, 3), (2, 2), SAME3),
            Relu("active", ("stem",)),
            MaxPool("pool", ("active",), (2, 2), (1, 1)),
            Conv2D("wide", ("pool",), 64, (3, 3), (1, 1), SAME3),
            Conv2D("head", ("wide",), 16, bias=False),
            GlobalAveragePool("average", ("head",)),
        )
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def fresh(device: OpenCLDevice) -> OpenCLDevice:
    """The device as a process without tuned tiles opens it."""
    return replace(device, tuned={})


def pair(shape: Shape, registers: int) -> Sequence[Tile]:
    """The default and one other."""
    return tuning.first_candidates(shape, registers)[:2]


def timed_by(seconds: Callable[[Tile], float]) -> Timer:
    """A clock that says how long a tile takes, whatever it does."""

    def timer(program: Program, start: int, stop: int) -> float:
        tiles = {call.options for call in program.calls[start:stop]}
        assert len(tiles) == 1
        tile = tiles.pop()
        assert isinstance(tile, Tile)
        return seconds(tile) * (stop - start)

    return timer


def second_wins(device: OpenCLDevice, by: float) -> Timer:
    """A clock by which the second candidate of every shape takes `by` of the time of all others."""
    registers = device.limits.vector_registers
    works = distinct_works([record_training(device, network(), SPEC)])
    firsts = {pair(work.shape, registers)[0] for work, _ in works}
    return timed_by(lambda tile: 1.0 if tile in firsts else by)


def test_the_candidate_that_the_clock_prefers_is_chosen_and_kept(fresh: OpenCLDevice) -> None:
    program = record_training(fresh, network(), SPEC)
    report = tune(fresh, [program], PLENTY_S, candidates=pair, timer=second_wins(fresh, 0.5))
    assert report.left == report.known == 0
    assert sum(outcome.share for outcome in report.outcomes) == pytest.approx(1.0, abs=0.01)
    better = [outcome for outcome in report.outcomes if outcome.gain == 2.0]
    assert better
    for outcome in report.outcomes:
        assert outcome.trials[0].tile == pair(outcome.shape, fresh.limits.vector_registers)[0]
        assert fresh.tuned[outcome.shape] == outcome.chosen
        assert (outcome.chosen != outcome.trials[0].tile) == (outcome.gain > 1.0)
    used = {call.options for call in record_training(fresh, network(), SPEC).calls}
    assert {outcome.chosen for outcome in report.outcomes} <= used


def test_a_lead_within_the_noise_does_not_replace_the_default(fresh: OpenCLDevice) -> None:
    program = record_training(fresh, network(), SPEC)
    report = tune(fresh, [program], PLENTY_S, candidates=pair, timer=second_wins(fresh, 0.99))
    assert [outcome.chosen for outcome in report.outcomes] == [o.trials[0].tile for o in report.outcomes]


def test_what_was_measured_is_remembered_by_later_processes(fresh: OpenCLDevice) -> None:
    program = record_training(fresh, network(), SPEC)
    first = tune(fresh, [program], PLENTY_S, candidates=pair, timer=second_wins(fresh, 0.5))
    later = replace(fresh, tuned={})

    def never(program: Program, start: int, stop: int) -> float:
        raise AssertionError("timed again")

    second = tune(later, [record_training(later, network(), SPEC)], PLENTY_S, candidates=pair, timer=never)
    assert (second.known, second.left, second.outcomes) == (len(first.outcomes), 0, ())
    assert later.tuned == fresh.tuned
    again = tune(fresh, [program], PLENTY_S, True, pair, timed_by(lambda tile: 1.0))
    assert len(again.outcomes) == len(first.outcomes)


def test_a_candidate_with_a_wrong_result_is_refused_however_fast(
    fresh: OpenCLDevice, caplog: pytest.LogCaptureFixture
) -> None:
    # Panels of three vectors leave the rest of the channels uncomputed.
    wrong = ForwardTile(2, 1, 3, fresh.limits.vector_width)

    def with_a_wrong_one(shape: Shape, registers: int) -> Sequence[Tile]:
        vectors = shape.outputs // shape.vector
        fooled = isinstance(shape, ForwardShape) and vectors > 3 and vectors % 3
        return (pair(shape, registers)[0], *([wrong] if fooled else []))

    program = record(fresh, network(), single_tensors(network()), BATCH).program
    with caplog.at_level(logging.WARNING):
        timer = timed_by(lambda tile: 0.1 if tile == wrong else 1.0)
        report = tune(fresh, [program], PLENTY_S, candidates=with_a_wrong_one, timer=timer)
    fooled = [outcome for outcome in report.outcomes if len(outcome.trials) > 1]
    assert fooled
    assert all(outcome.trials[1] == Trial(wrong, float("inf")) for outcome in fooled)
    assert wrong not in fresh.tuned.values()
    assert [record.getMessage() for record in caplog.records if "wrongly" in record.getMessage()]


def test_nothing_is_compiled_when_the_budget_is_too_small(
    fresh: OpenCLDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Program, "compile", lambda *given: pytest.fail("compiled"))
    report = tune(fresh, [record_training(fresh, network(), SPEC)], 0.01)
    assert report.outcomes == ()
    assert report.left == len(distinct_works([record_training(fresh, network(), SPEC)]))
    assert fresh.tuned == {}


def test_measuring_stops_when_the_budget_is_spent_and_the_heaviest_shapes_come_first(
    fresh: OpenCLDevice,
) -> None:
    ticks: Iterator[int] = count()
    program = record_training(fresh, network(), SPEC)
    timer = timed_by(lambda tile: 1.0)
    report = tune(fresh, [program], 5.5, candidates=pair, timer=timer, clock=lambda: float(next(ticks)))
    assert 0 < len(report.outcomes) < 5
    assert report.left > 0
    flops: dict[Shape, int] = {}
    for call in program.calls:
        if isinstance(call.work, ForwardWork | WeightWork):
            flops[call.work.shape] = flops.get(call.work.shape, 0) + call.work.flops
    heaviest = sorted(flops.values(), reverse=True)
    assert [flops[outcome.shape] for outcome in report.outcomes] == heaviest[: len(report.outcomes)]


def test_tiles_are_measured_with_a_real_clock_for_training_and_prediction(fresh: OpenCLDevice) -> None:
    programs = [
        record_training(fresh, network(), SPEC),
        record(fresh, network(), single_tensors(network()), 1).program,
    ]
    report = tune(fresh, programs, PLENTY_S, candidates=pair)
    assert all(trial.seconds > 0 for outcome in report.outcomes for trial in outcome.trials)
    assert all(np.isfinite(trial.seconds) for outcome in report.outcomes for trial in outcome.trials)


def test_a_small_prediction_counts_as_much_as_a_large_training_step(fresh: OpenCLDevice) -> None:
    programs = [
        record_training(fresh, network(), TrainingSpec(64, Sgd())),
        record(fresh, network(), single_tensors(network()), 1).program,
    ]
    both = {work.shape: share for work, share in distinct_works(programs)}
    alone = [{work.shape: share for work, share in distinct_works([program])} for program in programs]
    assert sum(both.values()) == pytest.approx(1.0)
    for shape, share in both.items():
        assert share == pytest.approx(sum(shares.get(shape, 0.0) for shares in alone) / 2)


def test_other_tiles_give_the_same_gradients(fresh: OpenCLDevice) -> None:
    graph = network()
    registers = fresh.limits.vector_registers
    others = replace(fresh, tuned={})
    for shape in (work.shape for work, _ in distinct_works([record_training(fresh, graph, SPEC)])):
        found = (forward_candidates if isinstance(shape, ForwardShape) else weight_candidates)(
            shape,
            registers,
        )
        others.tuned[shape] = found[len(found) // 2]
    x, labels = random_batch(graph, BATCH)
    gradients = []
    for device in (fresh, others):
        trainer = OpenCLTrainer(device, graph, SPEC)
        trainer.load(single_tensors(graph))
        gradients.append(trainer.gradients(x.astype(np.float32), labels))
    options = [{call.options for call in record_training(d, graph, SPEC).calls} for d in (fresh, others)]
    assert options[0] != options[1]
    for name, expected in gradients[0].items():
        assert_close(gradients[1][name], expected, 2 * (9 * 64 + 9 * 32 + BATCH * 36))
