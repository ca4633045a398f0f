from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import ShapeError
from emberfleet.engine.memory import ALIGNMENT, BufferRequest, align, plan_arena


@st.composite
def requests(draw: st.DrawFn) -> list[BufferRequest]:
    count = draw(st.integers(0, 30))
    found = []
    for index in range(count):
        first = draw(st.integers(0, 20))
        size = draw(st.integers(0, 2000))
        last = first + draw(st.integers(0, 8))
        gap = draw(st.none() | st.tuples(st.integers(first, last), st.integers(first, last)))
        if gap is not None and gap[0] > gap[1]:
            gap = gap[::-1]
        found.append(BufferRequest(f"b{index}", size, first, last, gap))
    return found


def in_use(buffer: BufferRequest, step: int) -> bool:
    lent = buffer.gap is not None and buffer.gap[0] < step < buffer.gap[1]
    return buffer.first <= step <= buffer.last and not lent


@given(requests())
def test_buffers_that_live_at_one_step_never_overlap(buffers: list[BufferRequest]) -> None:
    plan = plan_arena(buffers)
    for step in range(30):
        live = sorted(
            (plan.offsets[b.name], plan.offsets[b.name] + b.size_bytes)
            for b in buffers
            if in_use(b, step) and b.size_bytes
        )
        assert all(before[1] <= after[0] for before, after in pairwise(live))


@given(requests())
def test_the_arena_holds_every_buffer_and_is_no_smaller_than_the_bound(buffers: list[BufferRequest]) -> None:
    plan = plan_arena(buffers)
    assert plan.size_bytes >= plan.bound_bytes
    live = [sum(align(b.size_bytes) for b in buffers if in_use(b, step)) for step in range(30)]
    assert plan.bound_bytes == max(live) == live[plan.fullest_step]
    assert plan.size_bytes <= sum(align(b.size_bytes) for b in buffers)
    for buffer in buffers:
        assert plan.offsets[buffer.name] % ALIGNMENT == 0
        assert plan.offsets[buffer.name] + buffer.size_bytes <= plan.size_bytes


def test_buffers_whose_lives_do_not_meet_share_their_bytes() -> None:
    plan = plan_arena([BufferRequest("a", 640, 0, 1), BufferRequest("b", 640, 2, 3)])
    assert plan.offsets == {"a": 0, "b": 0}
    assert plan.size_bytes == plan.bound_bytes == 640


def test_a_buffer_lends_its_bytes_in_its_gap() -> None:
    plan = plan_arena([BufferRequest("a", 640, 0, 9, (2, 7)), BufferRequest("b", 640, 3, 6)])
    assert plan.offsets == {"a": 0, "b": 0}
    assert (
        plan_arena([BufferRequest("a", 640, 0, 9, (2, 7)), BufferRequest("b", 640, 3, 7)]).size_bytes == 1280
    )


def test_the_tightest_gap_is_taken() -> None:
    plan = plan_arena(
        [
            BufferRequest("floor", 1024, 0, 5),
            BufferRequest("middle", 512, 3, 8),
            BufferRequest("upper", 256, 0, 5),
            BufferRequest("top", 128, 3, 8),
            BufferRequest("fits", 256, 6, 8),
        ]
    )
    assert plan.offsets == {"floor": 0, "middle": 1024, "upper": 1536, "top": 1792, "fits": 1536}
    assert plan.size_bytes == plan.bound_bytes == 1920
    assert plan.fullest_step == 3


def test_the_order_is_mended_where_the_first_one_wastes_memory() -> None:
    buffers = [
        BufferRequest("large", 256, 2, 3),
        BufferRequest("short", 64, 1, 1),
        BufferRequest("early", 128, 1, 2),
        BufferRequest("long", 64, 3, 6),
    ]
    assert plan_arena(buffers).size_bytes == plan_arena(buffers).bound_bytes == 384


@pytest.mark.parametrize(
    "buffers",
    [
        [BufferRequest("a", 1, 0, 0), BufferRequest("a", 1, 1, 1)],
        [BufferRequest("a", -1, 0, 0)],
        [BufferRequest("a", 1, 2, 1)],
        [BufferRequest("a", 1, 0, 3, (2, 4))],
        [BufferRequest("a", 1, 0, 3, (2, 1))],
    ],
)
def test_impossible_requests_are_refused_by_name(buffers: list[BufferRequest]) -> None:
    with pytest.raises(ShapeError, match="'a'"):
        plan_arena(buffers)
