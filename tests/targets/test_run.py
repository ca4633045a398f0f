"""The table of targets says what really happened, bad or good."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emberfleet.core.arrays import Int8
from tests.targets import run
from tests.targets.subject import Subject, TargetError


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A network trained on the digits, and its answers."""
    return Subject.make(tmp_path_factory.mktemp("subject"))


def _changed(subject: Subject, by: int) -> Int8:
    codes = subject.codes.copy()
    codes[3, 4] += by if codes[3, 4] < 0 else -by
    return codes


def test_equal_logits_are_called_so(subject: Subject) -> None:
    assert subject.int8_agreement(subject.codes, 0) == f"bit for bit, {subject.codes.size} logits"


def test_a_logit_one_step_off_is_counted_where_it_is_allowed(subject: Subject) -> None:
    said = subject.int8_agreement(_changed(subject, 1), 1)
    assert said == f"{subject.codes.size - 1} of {subject.codes.size} logits equal, the others 1 step off"


@pytest.mark.parametrize(("by", "limit"), [(1, 0), (2, 1), (100, 1)])
def test_a_logit_further_off_fails(subject: Subject, by: int, limit: int) -> None:
    with pytest.raises(TargetError, match=f"{by} int8 steps"):
        subject.int8_agreement(_changed(subject, by), limit)


@pytest.mark.parametrize("wrong", [0.01, np.nan])
def test_a_real_number_that_is_off_fails(subject: Subject, wrong: float) -> None:
    found = subject.scores.copy()
    found[0, 0] += wrong * np.abs(found).max()
    with pytest.raises(TargetError, match="of the largest value from the reference"):
        subject.float_agreement(found, subject.scores, 1e-3)


def test_what_fails_and_what_cannot_run_are_rows_too(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = run.run_target("tflite-int8", Subject(subject.folder / "absent"))
    assert (row["ran"], row["bytes"]) == ("", 0)
    assert row["agreement"].startswith("failed: ")
    monkeypatch.setenv("PATH", "/nowhere")
    (row,) = run.run_target("runner", subject)
    assert row["ran"] == ""
    assert row["agreement"].startswith("not run: ")
    assert "not installed" in row["agreement"] or "no C compiler" in row["agreement"]


@pytest.mark.parametrize("target", ["tflite-int8", "onnx-int8", "opencl"])
def test_a_target_is_written_run_and_compared(subject: Subject, target: str) -> None:
    rows = run.run_target(target, subject)
    for row in rows:
        if row["agreement"] == "not run":
            pytest.skip(row["ran"])
        assert row["target"] == target
        assert row["bytes"] > 10_000
        assert (
            "bit for bit" in row["agreement"] or "equal" in row["agreement"] or "within" in row["agreement"]
        )
    json.dumps(rows)
    assert run.table_of(rows).row_count == len(rows)
