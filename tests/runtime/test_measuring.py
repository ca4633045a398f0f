from __future__ import annotations

import sys

import pytest

from emberfleet.core.errors import DeviceError
from emberfleet.runtime.measuring import MeasuredProcess, Timing, check_falling, interleave, sample_ms

CHILD = """
import sys, time
from emberfleet.runtime.measuring import SkippedError, serve
class Work:
    def __init__(self):
        {prepare}
    def call(self):
        print('noise of a library')
        {call}
    def facts(self):
        return {{'told': 7}}
serve(Work)
"""


def child(prepare: str = "pass", call: str = "time.sleep(0.001)", may_fail: bool = False) -> MeasuredProcess:
    command = [sys.executable, "-c", CHILD.format(prepare=prepare, call=call)]
    return MeasuredProcess("child", command, may_fail=may_fail)


def test_a_timing_is_the_median_with_the_extremes() -> None:
    assert Timing.of([3.0, 1.0, 10.0]) == Timing(3.0, 1.0, 10.0, 3)


def test_a_sample_is_at_least_so_many_calls() -> None:
    calls: list[int] = []
    sample_ms(lambda: calls.append(1), 0.0, least=4)
    assert len(calls) == 4


def test_children_take_turns_and_tell_their_facts() -> None:
    with child() as first, child() as second:
        results = interleave([first, second], samples=3, seconds=0.01)
    for result in results:
        assert result.timing is not None
        assert result.timing.samples == 3
        assert 1.0 <= result.timing.low < 50.0
        assert result.facts["told"] == 7
        assert result.facts["peak_mib"] > 1


def test_what_a_machine_cannot_do_is_skipped_with_the_reason() -> None:
    with child(prepare="raise SkippedError('no such thing here')") as able, child() as other:
        results = interleave([able, other], samples=1, seconds=0.0)
    assert results[0].to_json() == {"skipped": "no such thing here"}
    assert results[1].timing is not None


def test_a_child_that_dies_is_an_error_with_what_it_said() -> None:
    with child(call="sys.exit('the driver gave up')") as process, pytest.raises(DeviceError, match="gave up"):
        process.wait_ready()


DIES_LATER = "self.calls = getattr(self, 'calls', 0) + 1; self.calls < 60 or sys.exit('out of memory')"


@pytest.mark.parametrize("call", ["sys.exit('out of memory')", DIES_LATER])
def test_a_child_that_may_fail_is_skipped_when_it_dies_and_the_others_go_on(call: str) -> None:
    with child(call=f"time.sleep(0.002); {call}", may_fail=True) as mortal, child() as other:
        results = interleave([mortal, other], samples=4, seconds=0.1)
    assert "out of memory" in results[0].skipped
    assert results[1].timing is not None
    assert results[1].timing.samples == 4


def test_a_child_may_say_more_than_a_pipe_holds() -> None:
    with child(call="sys.stderr.write('x' * 300_000)") as process:
        (result,) = interleave([process], samples=1, seconds=0.0)
    assert result.timing is not None


@pytest.mark.parametrize("last", [2.0, 2.5, float("nan")])
def test_a_loss_that_does_not_fall_is_an_error(last: float) -> None:
    with pytest.raises(DeviceError, match="loss"):
        check_falling("x", 2.0, last)
