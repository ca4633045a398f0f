from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import ConfigError, RoundError
from emberfleet.core.messages import ModelInfo
from emberfleet.core.offers import RoundTerms, SecureTerms
from emberfleet.core.secure.group import Graph, Group
from emberfleet.core.secure.messages import Advert, Roster
from emberfleet.core.secure.parameters import choose_parameters
from emberfleet.core.updates import TensorPlan, UpdatePlan
from tests.core.secure.test_messages import GOLDEN, ROUND

PLAN = UpdatePlan((TensorPlan("w", (1000,), 1.0),), 8)
TERMS = RoundTerms(ROUND, 1, ModelInfo(1, "c" * 64, 9), PLAN, {}, 0, SecureTerms(3, 0.05, 0.3, 20))


def graph_of(members: int, terms: RoundTerms = TERMS) -> Graph:
    ids = [hashlib.sha256(str(index).encode()).hexdigest()[:32] for index in range(members)]
    key, signature = bytes(32), bytes(64)
    adverts = [Advert(device_id, key, key, key, key, signature) for device_id in ids]
    return Graph(Roster.of(ROUND, terms.digest, adverts), terms)


def test_degree_and_threshold_follow_from_the_terms_and_the_number_of_members() -> None:
    for members in (3, 10, 50, 300):
        graph = graph_of(members)
        assert graph.parameters == choose_parameters(members, 0.05, 0.3)
        assert graph.corrupt == members // 20
        for position, neighbours in enumerate(graph.neighbours):
            assert len(neighbours) == graph.parameters.degree
            assert graph.neighbours_of(position) == neighbours
            assert all(position in graph.neighbours[other] for other in neighbours)


def test_the_order_on_the_ring_follows_from_the_rosters_digest() -> None:
    graph, other = graph_of(50), graph_of(50, replace(TERMS, seed=1))
    assert graph.roster.digest != other.roster.digest
    assert graph.neighbours != other.neighbours


def test_a_sealed_round_has_no_graph_and_too_few_members_none_either() -> None:
    with pytest.raises(RoundError, match="sealed"):
        _ = Graph(graph_of(3).roster, replace(TERMS, secure=None, round_key=bytes(32))).parameters
    with pytest.raises(ConfigError):
        _ = graph_of(2).parameters


@given(members=st.sampled_from([5, 20, 50]), data=st.data())
def test_participants_are_the_largest_part_of_the_senders_whom_enough_neighbours_can_save(
    members: int, data: st.DataObject
) -> None:
    graph = graph_of(members)
    senders = data.draw(st.sets(st.integers(0, members - 1)))
    taking_part = graph.participants(senders)
    assert list(taking_part) == sorted(set(taking_part) & senders)
    alive = set(taking_part)
    assert all(len(alive & set(graph.neighbours[one])) >= graph.threshold for one in alive)
    # One after the other, the longhand way: the order does not matter.
    left = sorted(senders, reverse=True)
    while lost := [one for one in left if len(set(left) & set(graph.neighbours[one])) < graph.threshold]:
        left.remove(lost[0])
    assert sorted(left) == list(taking_part)


def test_the_group_is_named_by_roster_and_participants() -> None:
    graph = graph_of(5)
    group = Group(graph, (0, 1, 2, 4))
    text = f'{{"participants":[0,1,2,4],"roster_digest":"{graph.roster.digest}"}}'
    assert group.digest == hashlib.sha256(text.encode()).hexdigest()
    assert group.digest != Group(graph, (0, 1, 2, 3)).digest
    assert (group.context.round_id, group.context.roster_digest.hex()) == (ROUND, group.digest)
    golden = Roster.decode(base64.b64decode(GOLDEN["messages"]["roster"]))
    assert Group(Graph(golden, TERMS), (0, 1, 2)).digest == GOLDEN["group_digest"]


def test_neighbours_are_those_that_take_part() -> None:
    graph = graph_of(50)
    group = Group(graph, tuple(range(0, 50, 2)))
    for position in group.participants:
        expected = tuple(other for other in graph.neighbours[position] if other % 2 == 0)
        assert group.neighbours[position] == group.neighbours_of(position) == expected


def test_the_layout_is_for_as_many_devices_as_take_part() -> None:
    group = Group(graph_of(50), tuple(range(33)))
    layout = group.layout
    assert (layout.plan, layout.devices, layout.heaviest, layout.chosen) == (PLAN, 33, 20, None)


def test_coordinates_are_the_same_for_everybody_and_others_in_another_round() -> None:
    secure = TERMS.secure
    assert secure is not None
    tenth = replace(TERMS, secure=replace(secure, coordinates=0.1))
    first, second = (Group(graph_of(5, tenth), part).layout.chosen for part in ((0, 1, 2), (0, 1, 2, 3)))
    other = Group(graph_of(5, replace(tenth, seed=2)), (0, 1, 2)).layout.chosen
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.tolist() == second.tolist() != other.tolist()
    assert 50 < first.size < 150


@pytest.mark.parametrize(
    ("members", "participants", "quorum"),
    [(3, 3, 2), (20, 20, 11), (20, 15, 9), (100, 100, 53), (300, 211, 114)],
)
def test_two_sets_of_survivors_cannot_both_have_a_quorum(
    members: int, participants: int, quorum: int
) -> None:
    group = Group(graph_of(members), tuple(range(participants)))
    assert group.quorum == quorum
    # Two quorums share more devices than are corrupt, and an honest one signs once.
    assert 2 * quorum - participants > group.graph.corrupt


@given(members=st.sampled_from([6, 20, 50]), data=st.data())
def test_a_secret_is_lost_where_too_few_holders_survive(members: int, data: st.DataObject) -> None:
    graph = graph_of(members)
    group = Group(graph, tuple(range(members)))
    alive = data.draw(st.sets(st.integers(0, members - 1)))
    lost = group.lost(alive)
    for position in range(members):
        holders = len(alive & set(graph.neighbours[position]))
        needed = position in alive or holders > 0
        assert (position in lost) == (needed and holders < graph.threshold)
    enough = len(alive) >= max(3, group.quorum)
    assert group.can_end(alive) == (enough and not lost)


def test_a_round_does_not_end_below_its_minimum() -> None:
    secure = TERMS.secure
    assert secure is not None
    group = Group(graph_of(8, replace(TERMS, secure=replace(secure, minimum=8))), tuple(range(8)))
    assert group.can_end(range(8))
    assert not group.can_end(range(7))
