"""Plans signed by a hostile publisher: what the host does with them stays within its own buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.runner.bundles import TRUSTED, with_parts, with_plan
from tests.runner.ember import Ember, EmberError, Status

Change = Callable[[dict[str, Any]], None]
HUGE = (1 << 53) - 1


def _set(*path: str | int, to: Any) -> Change:
    def change(plan: dict[str, Any]) -> None:
        place: Any = plan
        for step in path[:-1]:
            place = place[step]
        if to is KeyError:
            del place[path[-1]]
        else:
            place[path[-1]] = to

    return change


FIRST: tuple[str | int, ...] = ("plans", 0)
LAUNCH = (*FIRST, "launches", 0)
INPUT, OUTPUT = (*FIRST, "input"), (*FIRST, "output")

CHANGES: dict[str, tuple[str, Change]] = {
    "another format": ("format", _set("format", to=1)),
    "a field too many": ("a field", _set("more", to=1)),
    "a field too few": ("constants", _set("constants", to=KeyError)),
    "constants that are not there": ("constants", _set("constants", to="none.bin")),
    "a kernel that is not there": ("kernels", _set("kernels", "none.cl", to="0" * 64)),
    "a kernel of another folder": ("kernels", _set("kernels", "../plan.json", to="0" * 64)),
    "a kernel of another digest": ("kernels", _set("kernels", "prelude.cl", to="0" * 64)),
    "no plans": ("plans", _set("plans", to=[])),
    "a real number": ("lanes", _set(*FIRST, "lanes", to=1.0)),
    "no lanes": ("lanes", _set(*FIRST, "lanes", to=0)),
    "lanes of the other family": ("lanes", _set(*FIRST, "lanes", to=64)),
    "an unknown precision": ("precision", _set(*FIRST, "precision", to="int4")),
    "a name of another plan": ("name", _set(*FIRST, "name", to="float32-gpu")),
    "two plans of one name": ("name", lambda plan: plan["plans"].append(plan["plans"][0])),
    "no buffers": ("buffers", _set(*FIRST, "buffers", to=[])),
    "a buffer without bytes": ("bytes", _set(*FIRST, "buffers", 0, "bytes", to=0)),
    "a buffer of all memory": ("bytes", _set(*FIRST, "buffers", 0, "bytes", to=HUGE)),
    "contents behind the constants": ("contents", _set(*FIRST, "buffers", 1, "contents", to=[1 << 40, 1])),
    "contents that end behind them": ("contents", _set(*FIRST, "buffers", 1, "contents", to=[64, HUGE])),
    "contents before them": ("contents", _set(*FIRST, "buffers", 1, "contents", to=[-64, 64])),
    "contents larger than the buffer": ("contents", _set(*FIRST, "buffers", 1, "bytes", to=1)),
    "contents of one number": ("contents", _set(*FIRST, "buffers", 1, "contents", to=[0])),
    "a source that is not listed": ("source", _set(*FIRST, "programs", 0, "source", to="none.cl")),
    "an option that is no definition": ("options", _set(*FIRST, "programs", 0, "options", to=["-cl-opt"])),
    "two options in one": ("options", _set(*FIRST, "programs", 0, "options", to=["-DA=1 -I/"])),
    "a program that is not there": ("program", _set(*LAUNCH, "program", to=1000)),
    "a kernel's name with a space": ("kernel", _set(*LAUNCH, "kernel", to="fill s8")),
    "a kernel's name without end": ("kernel", _set(*LAUNCH, "kernel", to="k" * 65)),
    "no work-items": ("global", _set(*LAUNCH, "global", to=[0, 1, 1])),
    "work-items beyond 31 bits": ("global", _set(*LAUNCH, "global", to=[1 << 31, 1, 1])),
    "axes whose product is beyond them": ("global", _set(*LAUNCH, "global", to=[1 << 16, 1 << 15, 1])),
    "axes whose product wraps around": ("global", _set(*LAUNCH, "global", to=[1 << 24, 1 << 24, 1 << 16])),
    "groups of another size": ("local", _set(*LAUNCH, "local", to=[2, 1, 1])),
    "groups on two axes": ("local", _set(*LAUNCH, "local", to=[1, 2, 1])),
    "an argument without a kind": ("arguments", _set(*LAUNCH, "arguments", 0, to=[])),
    "an argument of an unknown kind": ("arguments", _set(*LAUNCH, "arguments", 0, to=["i64", 1])),
    "a buffer that is not there": ("arguments", _set(*LAUNCH, "arguments", 0, to=["buffer", 16])),
    "a buffer before the first": ("arguments", _set(*LAUNCH, "arguments", 0, to=["buffer", -1])),
    "two buffers in one": ("arguments", _set(*LAUNCH, "arguments", 0, to=["buffer", 0, 0])),
    "a vector of three": ("arguments", _set(*LAUNCH, "arguments", 0, to=["i32", 1, 2, 3])),
    "a vector of eight": ("arguments", _set(*LAUNCH, "arguments", 0, to=["i32", *range(8)])),
    "a number beyond 32 bits": ("arguments", _set(*LAUNCH, "arguments", 0, to=["i32", 1 << 31])),
    "arguments without end": ("arguments", _set(*LAUNCH, "arguments", to=[["i32", 1]] * 33)),
    "more first launches than there are": ("first", _set(*FIRST, "first", to=1000)),
    "an input into no buffer": ("buffer", _set(*INPUT, "buffer", to=16)),
    "an input behind its buffer": ("stretch", _set(*INPUT, "stretch", to=[1 << 32, 4])),
    "an input beyond its buffer": ("stretch", _set(*INPUT, "stretch", to=[0, 1 << 27])),
    "an input of broken floats": ("stretch", _set(*INPUT, "stretch", to=[2, 324])),
    "an input smaller than the image": ("steps", _set(*INPUT, "stretch", to=[0, 320])),
    "an input of another shape": ("shape", _set(*INPUT, "shape", to=[9, 9, 3])),
    "an input that begins behind": ("steps", _set(*INPUT, "steps", to=[1 << 30, 9, 1])),
    "an input that begins before": ("steps", _set(*INPUT, "steps", to=[-1, 9, 1])),
    "rows that leave the stretch": ("steps", _set(*INPUT, "steps", to=[0, (1 << 31) - 1, 1])),
    "pixels that leave the stretch": ("steps", _set(*INPUT, "steps", to=[0, 9, (1 << 31) - 1])),
    "steps beyond 31 bits": ("steps", _set(*INPUT, "steps", to=[0, 1 << 31, 1])),
    "an output of no buffer": ("buffer", _set(*OUTPUT, "buffer", to=16)),
    "an output behind its buffer": ("output", _set(*OUTPUT, "at", to=1 << 33)),
    "an output of more values": ("output", _set(*OUTPUT, "count", to=6)),
    "an output of another type": ("type", _set(*OUTPUT, "type", to="f32")),
    "an output without a scale": ("scale", _set(*OUTPUT, "scale", to=0)),
    "an output whose scale is no number": ("scale", _set(*OUTPUT, "scale", to=0x7FC00000)),
    "a zero point beyond int8": ("zero_point", _set(*OUTPUT, "zero_point", to=128)),
    "pixels for other channels": ("scale", _set("pixels", "scale", to=[0, 0, 0])),
    "pixels without numbers": ("scale", _set("pixels", "scale", to=[0x7F800000])),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_hostile_plan_is_refused_by_name(ember: Ember, bundle: bytes, case: str) -> None:
    named, change = CHANGES[case]
    with pytest.raises(EmberError, match=named) as caught:
        ember.open(with_plan(bundle, change), TRUSTED, opencl_library="libnowhere.so")
    assert caught.value.status == Status.BAD_FORMAT


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"format":2,"format":2}',
        b'{"format":99999999999999999999}',
        b'{"format":999999999999999999999}',
        b"[" * 100_000,
        b'{"format":2}{"format":2}',
        b'{"format":"\xff"}',
        b'{"format":"\\ud800"}',
        b'{"format":NaN}',
        b'{"format":01}',
    ],
)
def test_a_plan_that_is_no_plain_json_is_refused(ember: Ember, bundle: bytes, text: bytes) -> None:
    with pytest.raises(EmberError, match="plan:") as caught:
        ember.open(with_parts(bundle, {"opencl/plan.json": text}), TRUSTED, opencl_library="libnowhere.so")
    assert caught.value.status == Status.BAD_FORMAT


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("takes 5 arguments, the plan gives 1", _set(*LAUNCH, "arguments", to=[["buffer", 0]])),
        ("making a kernel", _set(*LAUNCH, "kernel", to="no_such_kernel")),
        ("is of type 'int', the plan gives int2", _set(*LAUNCH, "arguments", 1, to=["i32", 1, 2])),
        ("is of type 'int', the plan gives uint", _set(*LAUNCH, "arguments", 1, to=["u32", 1])),
        ("is of type 'int', the plan gives float", _set(*LAUNCH, "arguments", 1, to=["f32", 1])),
        ("is of type 'int', the plan gives a buffer", _set(*LAUNCH, "arguments", 1, to=["buffer", 0])),
        # As large as a handle: a driver that took it for one would follow it as an address.
        ("the plan gives uint2", _set(*LAUNCH, "arguments", 0, to=["u32", 0x41414141, 0x41414141])),
        ("the plan gives int", _set(*LAUNCH, "arguments", 0, to=["i32", 0x41414141])),
    ],
)
def test_what_only_the_driver_can_see_is_refused_too(
    ember: Ember, bundle: bytes, opencl_library: str, named: str, change: Change
) -> None:
    with pytest.raises(EmberError, match=named):
        ember.open(with_plan(bundle, change), TRUSTED, opencl_library=opencl_library)
