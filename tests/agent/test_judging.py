"""Whether a new model does worse here than the one that served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emberfleet.agent.judging import MOST_SAMPLES, Evaluate, is_worse, judge
from emberfleet.agent.samples import Samples
from emberfleet.core.arrays import Int64, UInt8
from emberfleet.core.errors import DeviceError
from emberfleet.core.messages import ModelReport

NEW, OLD = Path("new"), Path("old")


def samples(held: int) -> Samples:
    images = np.arange(held, dtype=np.uint8).reshape(held, 1, 1, 1)
    return Samples(images[:0], np.zeros(0, np.int64), images, np.arange(held, dtype=np.int64))


def scores(new: float, old: float) -> Evaluate:
    """Evaluate to a share of the samples asked for."""
    return lambda bundle, images, labels: round({NEW: new, OLD: old}[bundle] * len(labels))


@pytest.mark.parametrize(
    ("right", "before", "count", "worse"),
    [
        (20, 20, 20, False),
        (19, 20, 20, False),
        (18, 20, 20, True),
        (4, 5, 5, False),
        (3, 5, 5, True),
        (95, 100, 100, False),
        (94, 100, 100, True),
        (100, 90, 100, False),
        (0, 1, 1, False),
    ],
)
def test_a_fall_beyond_five_points_and_one_sample_is_worse(
    right: int, before: int, count: int, worse: bool
) -> None:
    assert is_worse(right, before, count) == worse


def test_a_worse_model_is_not_kept_and_the_report_says_by_how_much() -> None:
    assert judge(scores(0.5, 0.9), NEW, OLD, samples(20)) == ModelReport(0.5, 0.9, 20, kept=False)
    assert judge(scores(0.9, 0.5), NEW, OLD, samples(20)) == ModelReport(0.9, 0.5, 20, kept=True)


def test_a_wider_tolerance_keeps_it() -> None:
    report = judge(scores(0.5, 0.9), NEW, OLD, samples(20), tolerance=0.4)
    assert report is not None
    assert report.kept


def test_without_held_out_samples_nothing_is_judged() -> None:
    assert judge(scores(0.0, 1.0), NEW, OLD, samples(0)) is None


def test_many_samples_are_measured_by_some_of_them_evenly_spread() -> None:
    seen: list[Int64] = []

    def evaluate(bundle: Path, images: UInt8, labels: Int64) -> int:
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
        seen.append(labels)
        return len(labels)

    many = np.arange(1000)
    held = Samples(
        np.zeros((0, 1, 1, 2), np.uint8),
        np.zeros(0, np.int64),
        (many % 251).astype(np.uint8).reshape(-1, 1, 1, 1),
        (many % 251).astype(np.int64),
    )
    report = judge(evaluate, NEW, OLD, held)
    assert report is not None
    assert report.samples == MOST_SAMPLES
    np.testing.assert_array_equal(seen[0], seen[1])
    assert seen[0][0] == 0
    assert seen[0][-1] == 999 % 251


def test_a_model_that_cannot_be_run_here_gets_nothing_right() -> None:
    def evaluate(bundle: Path, images: UInt8, labels: Int64) -> int:
        if bundle == NEW:
            raise DeviceError("no kernel for this")
        return len(labels)

    assert judge(evaluate, NEW, OLD, samples(10)) == ModelReport(0.0, 1.0, 10, kept=False)


def test_where_the_old_model_cannot_be_run_either_nothing_is_known() -> None:
    def evaluate(bundle: Path, images: UInt8, labels: Int64) -> int:
        raise DeviceError("no memory")

    assert judge(evaluate, NEW, OLD, samples(10)) is None
