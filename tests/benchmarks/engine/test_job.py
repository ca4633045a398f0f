from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

from benchmarks.engine import job
from emberfleet.runtime.measuring import SkippedError, Work


def test_outputs_that_agree_give_their_distance() -> None:
    expected = np.array([[2.0, -4.0]], np.float32)
    assert job.check_float(expected.ravel() + 2e-4, expected) == pytest.approx(5e-5, rel=0.01)


@pytest.mark.parametrize("found", [[2.0, -4.1], [2.0, math.nan], [4.0, -2.0]])
def test_a_library_that_computes_another_function_does_not_count(found: list[float]) -> None:
    with pytest.raises(SkippedError, match="off the reference"):
        job.check_float(np.array(found, np.float32), np.array([2.0, -4.0], np.float32))


def test_int8_outputs_are_compared_in_steps_without_wrapping() -> None:
    low, high = np.array([-128], np.int8), np.array([127], np.int8)
    assert job.check_steps(low, low + np.int8(1), 1) == 1
    with pytest.raises(SkippedError, match="255 steps"):
        job.check_steps(low, high, 1)


def test_a_training_tells_its_first_and_its_last_loss() -> None:
    losses = iter([3.0, 2.0, 1.0])
    work = job.Training(lambda: next(losses), "1.0")
    for _ in range(3):
        work.call()
    assert work.facts() == {"losses": [3.0, 1.0], "version": "1.0"}


def _said(reasons: type[Exception], error: Exception, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the parent would read: `serve` is replaced by a call that prepares."""

    def fail(_job: job.Job) -> Work:
        raise error

    text = job.Job(job.INFER, "nowhere", "", 1).to_json()
    assert json.loads(text)["threads"] == 1
    monkeypatch.setattr(sys, "argv", ["child", text])
    monkeypatch.setattr(job, "serve", lambda prepare: prepare())
    with pytest.raises(SkippedError) as found:
        job.serve_job(fail, reasons)
    return str(found.value)


def test_a_peer_that_fails_is_skipped_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _said(Exception, RuntimeError("no\nsuch kernel"), monkeypatch) == "RuntimeError: no such kernel"


def test_our_own_faults_are_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError):
        _said(OSError, TypeError("ours"), monkeypatch)
