from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.agent.rounds import secure
from emberfleet.agent.rounds.sealed import keep_sealed, take_offer
from emberfleet.agent.rounds.state import DeviceRound, Held, Secrets, Stage
from emberfleet.core.errors import FormatError
from tests.agent.rounds.test_sealed import OFFER as SEALED
from tests.agent.rounds.world import World


def all_stages() -> list[DeviceRound]:
    world, found = World.of(4), []
    device = world.devices[1]
    found.append(device.round)
    graph = world.share()
    found.append(device.round)
    world.graph, world.messages = graph, {each.position: each.round.shares for each in world.devices}
    from emberfleet.core.secure.group import Group

    world.group_ = Group(graph, (0, 1, 2, 3))
    for each in world.devices:
        each.round, _ = secure.take_mailbox(
            each.round, world.mailbox(each.position, (0, 1, 2, 3)), each.party
        )
    found.append(device.round)
    survivors = world.train()
    found.append(device.round)
    confirmations = world.confirm(survivors)
    found.append(device.round)
    world.disclose(confirmations, (1,))
    taken = take_offer(SEALED)
    return [*found, device.round, taken, keep_sealed(taken, b"body")]


ROUNDS = all_stages()
NAMES = [f"{round_.offer.terms.mode}-{round_.stage}" for round_ in ROUNDS]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def test_every_stage_is_among_them() -> None:
    assert {round_.stage for round_ in ROUNDS} == set(Stage)


@pytest.mark.parametrize("round_", ROUNDS, ids=NAMES)
def test_what_is_remembered_is_read_back_the_same(round_: DeviceRound) -> None:
    assert DeviceRound.decode(round_.encode()) == round_


@pytest.mark.parametrize("round_", ROUNDS, ids=NAMES)
def test_no_secret_shows_itself(round_: DeviceRound) -> None:
    shown = repr(round_)
    secrets = [] if round_.secrets is None else [getattr(round_.secrets, f.name) for f in fields(Secrets)]
    for held in round_.held:
        secrets += [held.key, held.own]
    secrets += [part for part in (round_.shares, round_.disclosure) if part]
    assert not any(repr(secret)[2:-1] in shown or secret.hex() in shown for secret in secrets)


@pytest.mark.parametrize("round_", ROUNDS, ids=NAMES)
def test_a_field_that_is_missing_or_not_of_the_stage_is_refused(round_: DeviceRound) -> None:
    written = json.loads(round_.encode())
    for name in written:
        with pytest.raises(FormatError):
            DeviceRound.decode(json.dumps({k: v for k, v in written.items() if k != name}).encode())
    with pytest.raises(FormatError, match="not part of this message"):
        DeviceRound.decode(json.dumps({**written, "more": 1}).encode())
    others = [stage for stage in Stage if stage is not round_.stage]
    for stage in others:
        with pytest.raises(FormatError):
            DeviceRound.decode(json.dumps({**written, "stage": stage.value}).encode())


@pytest.mark.parametrize("round_", ROUNDS, ids=NAMES)
@given(data=st.data())
def test_any_value_in_any_field_raises_nothing_but_a_format_error(
    round_: DeviceRound, data: st.DataObject
) -> None:
    written = json.loads(round_.encode())
    written[data.draw(st.sampled_from(sorted(written)))] = data.draw(JSON)
    try:
        DeviceRound.decode(json.dumps(written).encode())
    except FormatError:
        return


def test_secrets_are_gone_once_they_are_not_needed() -> None:
    by_stage = {round_.stage: round_ for round_ in ROUNDS}
    assert by_stage[Stage.GROUPED].secrets is not None
    assert by_stage[Stage.TRAINED].secrets is None
    assert by_stage[Stage.CONFIRMED].held
    assert by_stage[Stage.DISCLOSED].held == ()
    assert b"secrets" not in by_stage[Stage.TRAINED].encode()


def test_a_roster_without_the_device_is_refused() -> None:
    shared = next(round_ for round_ in ROUNDS if round_.stage is Stage.SHARED)
    written = json.loads(shared.encode())
    written["offer"]["device_id"] = "0" * 32
    with pytest.raises(FormatError, match="one with this device"):
        DeviceRound.decode(json.dumps(written).encode())


def test_held_shares_show_their_position_alone() -> None:
    assert repr(Held(3, b"k" * 33, b"o" * 33)) == "Held(position=3)"
