"""The graph: regular, symmetric, connected, and the same for whoever knows the seed."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import ShapeError
from emberfleet.core.secure.neighbours import harary_graph, neighbours_of, permute
from tests.core.secure import twins

SEED = bytes(range(32))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[tuple[int, ...], int]:
    cohort = draw(st.integers(2, 40))
    degree = draw(st.one_of(st.just(cohort - 1), st.integers(1, (cohort - 1) // 2 or 1).map(lambda k: 2 * k)))
    return permute(draw(st.binary(min_size=32, max_size=32)), cohort), min(degree, cohort - 1)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 100))
def test_the_order_sorts_what_each_position_draws(seed: bytes, cohort: int) -> None:
    keys = twins.numbers(seed, cohort, 8)
    assert permute(seed, cohort) == tuple(
        sorted(range(cohort), key=lambda position: (keys[position], position))
    )


@given(graphs())
def test_every_device_has_the_degree_and_is_its_neighbours_neighbour(
    graph: tuple[tuple[int, ...], int],
) -> None:
    order, degree = graph
    found = harary_graph(order, degree)
    for position, around in enumerate(found):
        assert len(around) == len(set(around)) == degree
        assert list(around) == sorted(around)
        assert position not in around
        assert all(position in found[other] for other in around)
        assert neighbours_of(position, order, degree) == around


@given(graphs())
def test_neighbours_are_the_nearest_on_the_ring(graph: tuple[tuple[int, ...], int]) -> None:
    order, degree = graph
    place = {position: at for at, position in enumerate(order)}
    for position, around in enumerate(harary_graph(order, degree)):
        gaps = {other: abs(place[position] - place[other]) for other in place if other != position}
        steps = {other: min(gap, len(order) - gap) for other, gap in gaps.items()}
        others = set(steps) - set(around)
        assert all(steps[near] <= steps[far] for near in around for far in others)


def test_no_fewer_than_degree_devices_cut_the_graph() -> None:
    order = permute(SEED, 9)
    graph = harary_graph(order, 4)
    assert all(connected(graph, set(range(9)) - set(lost)) for lost in combinations(range(9), 3))
    assert not all(connected(graph, set(range(9)) - set(lost)) for lost in combinations(range(9), 4))


def connected(graph: tuple[tuple[int, ...], ...], left: set[int]) -> bool:
    reached = {min(left)}
    while grown := {other for position in reached for other in graph[position]} & left - reached:
        reached |= grown
    return reached == left


def test_another_seed_is_another_order() -> None:
    assert permute(SEED, 50) != permute(bytes(32), 50)


@pytest.mark.parametrize(("cohort", "degree"), [(6, 3), (6, 6), (6, 0), (5, -2), (7, 5)])
def test_a_degree_that_no_such_graph_has_is_refused(cohort: int, degree: int) -> None:
    with pytest.raises(ShapeError, match=f"{degree} neighbours"):
        harary_graph(permute(SEED, cohort), degree)


def test_a_cohort_or_position_out_of_range_is_refused() -> None:
    for cohort in (0, -1, 1 << 40):
        with pytest.raises(ShapeError, match="a cohort of"):
            permute(SEED, cohort)
    with pytest.raises(ShapeError, match="position 5 of a cohort of 5"):
        neighbours_of(5, permute(SEED, 5), 2)
