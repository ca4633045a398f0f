from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from emberfleet.agent.rounds import secure
from emberfleet.agent.rounds.checks import Check, CheckError
from emberfleet.agent.rounds.state import DeviceRound, Stage
from emberfleet.core.codec import NotFiniteError
from emberfleet.core.errors import RoundError
from emberfleet.core.secure.answers import Confirmations, Disclosure, MaskedUpdate, Survivors
from emberfleet.core.secure.messages import Mailbox, Roster, SealedShare, SharesMessage
from emberfleet.core.secure.statements import seal_shares
from emberfleet.core.signing import SigningKey
from tests.agent.rounds.world import World, swapped, terms_of

SMALL_ORDER = bytes(32)


@contextmanager
def refused(check: Check) -> Iterator[None]:
    with pytest.raises(CheckError, match=check.value) as caught:
        yield
    assert caught.value.check is check


@pytest.fixture
def world() -> World:
    return World.of(5)


def test_the_sum_is_exact_with_nobody_and_with_somebody_vanished() -> None:
    for alive in ((0, 1, 2, 3, 4, 5, 6, 7), (0, 2, 3, 5, 6, 7)):
        world = World.of(8, terms_of(heaviest=40))
        world.group()
        survivors = world.train(alive)
        disclosures = world.disclose(world.confirm(survivors), alive)
        found, expected = world.unmask(survivors, disclosures), world.expected(survivors)
        assert found.weight == expected.weight
        np.testing.assert_array_equal(found.mean, expected.mean)


def test_who_never_shared_leaves_no_mask_and_the_rest_are_summed() -> None:
    world = World.of(8, terms_of(coordinates=0.5))
    group = world.group(senders=(0, 1, 3, 4, 6, 7))
    assert group.participants == (0, 1, 3, 4, 6, 7)
    survivors = world.train((0, 3, 4, 6, 7))
    disclosures = world.disclose(world.confirm(survivors), (0, 3, 4, 6, 7))
    np.testing.assert_array_equal(world.unmask(survivors, disclosures).mean, world.expected(survivors).mean)


def test_a_roster_of_another_round_is_refused(world: World) -> None:
    device, roster = world.devices[0], world.roster()
    other = Roster.of("6f" * 16, roster.terms_digest, roster.members)
    with refused(Check.OTHER_ROUND):
        secure.take_roster(device.round, other, device.party)


def test_a_roster_for_other_terms_is_refused(world: World) -> None:
    device, roster = world.devices[0], world.roster()
    other = Roster.of(roster.round_id, terms_of(minimum=4).digest, roster.members)
    with refused(Check.OTHER_TERMS):
        secure.take_roster(device.round, other, device.party)


def test_a_member_under_anothers_key_is_refused(world: World) -> None:
    device, stranger = world.devices[0], SigningKey.generate()
    with refused(Check.SWAPPED_KEY):
        secure.take_roster(
            device.round, swapped(world.roster(), 3, public_key=stranger.verify_key.raw), device.party
        )


@pytest.mark.parametrize("name", ["mask_key", "sealing_key", "commitment", "signature"])
def test_a_neighbour_whose_keys_were_swapped_by_the_server_is_refused(world: World, name: str) -> None:
    device, roster = world.devices[0], world.roster()
    others = getattr(roster.members[4], name)
    with refused(Check.NEIGHBOUR_SIGNATURE):
        secure.take_roster(device.round, swapped(roster, 3, **{name: others}), device.party)


def test_a_neighbours_advert_of_another_round_is_refused(world: World) -> None:
    device, roster, earlier = world.devices[0], world.roster(), world.devices[3]
    offer = replace(earlier.round.offer, terms=replace(world.terms, round_id="6f" * 16))
    advert = secure.advert_of(replace(earlier.round, offer=offer), earlier.party)
    members = [*roster.members[:3], advert, roster.members[4]]
    with refused(Check.NEIGHBOUR_SIGNATURE):
        secure.take_roster(
            device.round, Roster.of(roster.round_id, roster.terms_digest, members), device.party
        )


@pytest.mark.parametrize("name", ["mask_key", "sealing_key"])
def test_a_neighbours_key_that_agrees_on_the_same_with_everybody_is_refused(world: World, name: str) -> None:
    from emberfleet.core.secure.statements import advert_statement, sign_statement

    device, roster = world.devices[0], world.roster()
    member = swapped(roster, 3, **{name: SMALL_ORDER}).members[3]
    values = (member.device_id, member.public_key, member.mask_key, member.sealing_key, member.commitment)
    statement = advert_statement(roster.round_id, roster.terms_digest, *values)
    signature = sign_statement(world.devices[3].party.key, statement)
    with refused(Check.NEIGHBOUR_KEY):
        secure.take_roster(
            device.round, swapped(roster, 3, **{name: SMALL_ORDER, "signature": signature}), device.party
        )


def test_a_roster_without_this_device_is_refused(world: World) -> None:
    device, roster = world.devices[0], world.roster()
    without = Roster.of(roster.round_id, roster.terms_digest, roster.members[1:])
    with refused(Check.OWN_ADVERT):
        secure.take_roster(device.round, without, device.party)


@pytest.mark.parametrize("name", ["mask_key", "sealing_key", "commitment", "signature"])
def test_a_roster_with_this_devices_own_advert_changed_is_refused(world: World, name: str) -> None:
    device, roster = world.devices[0], world.roster()
    value = bytearray(getattr(roster.members[0], name))
    value[-1] ^= 1
    with refused(Check.OWN_ADVERT):
        secure.take_roster(device.round, swapped(roster, 0, **{name: bytes(value)}), device.party)


@pytest.mark.parametrize(("minimum", "floor"), [(5, 3), (3, 5)])
def test_a_roster_cut_down_below_the_terms_or_the_devices_floor_is_refused(minimum: int, floor: int) -> None:
    world = World.of(5, terms_of(minimum=minimum), floor=floor)
    device, roster = world.devices[0], world.roster()
    fewer = Roster.of(roster.round_id, roster.terms_digest, roster.members[:4])
    with refused(Check.TOO_FEW_MEMBERS):
        secure.take_roster(device.round, fewer, device.party)


def test_a_roster_for_which_there_is_no_graph_is_refused() -> None:
    world = World.of(6, terms_of(corrupt_share=0.5, dropout_share=0.5))
    device = world.devices[0]
    with refused(Check.NO_GRAPH):
        secure.take_roster(device.round, world.roster(), device.party)


def test_shares_go_to_exactly_the_neighbours_and_open_for_nobody_else(world: World) -> None:
    graph = world.share()
    first = world.devices[0].round
    message = SharesMessage.decode(first.shares, 5)
    assert [share.peer for share in message.shares] == list(graph.neighbours_of(0))
    world.messages = {device.position: device.round.shares for device in world.devices}
    world.graph = graph
    moved = world.mailbox(1, (0, 1, 2, 3, 4))
    second = world.devices[2]
    _, left_out = secure.take_mailbox(second.round, moved, second.party)
    reasons = dict(left_out)
    assert reasons[graph.roster.ids[0]] == "the signature does not verify under any trusted key"
    assert reasons[graph.roster.ids[1]] == "sent no shares"


def shared(world: World) -> Mailbox:
    world.graph = world.share()
    world.messages = {device.position: device.round.shares for device in world.devices}
    return world.mailbox(0, tuple(range(len(world.devices))))


def test_a_mailbox_of_another_roster_is_refused(world: World) -> None:
    mailbox, device = shared(world), world.devices[0]
    for other in (replace(mailbox, roster_digest="0" * 64), replace(mailbox, participants=(0, 1, 2, 3, 5))):
        with refused(Check.OTHER_ROSTER):
            secure.take_mailbox(device.round, other, device.party)


def test_a_group_without_this_device_is_left(world: World) -> None:
    mailbox, device = shared(world), world.devices[0]
    with refused(Check.NOT_A_PARTICIPANT):
        secure.take_mailbox(device.round, replace(mailbox, participants=(1, 2, 3, 4)), device.party)


@pytest.mark.parametrize(("minimum", "floor"), [(4, 3), (3, 4)])
def test_a_group_below_the_terms_or_the_devices_floor_is_left(minimum: int, floor: int) -> None:
    world = World.of(5, terms_of(minimum=minimum), floor=floor)
    mailbox, device = shared(world), world.devices[0]
    with refused(Check.TOO_FEW_PARTICIPANTS):
        secure.take_mailbox(device.round, replace(mailbox, participants=(0, 1, 2)), device.party)


def test_a_group_with_fewer_neighbours_than_the_threshold_is_left() -> None:
    world = World.of(9, terms_of(dropout_share=0.1))
    mailbox, device = shared(world), world.devices[0]
    assert world.graph.threshold == 5
    with refused(Check.TOO_FEW_NEIGHBOURS):
        secure.take_mailbox(device.round, replace(mailbox, participants=(0, 1, 2, 3, 4)), device.party)


@pytest.mark.parametrize("tampered", ["sealed", "signature", "sealed for another", "missing"])
def test_bad_shares_are_left_out_and_their_sender_is_named(world: World, tampered: str) -> None:
    mailbox, device = shared(world), world.devices[0]
    bad, sender = mailbox.shares[1], world.devices[2]
    digest = world.graph.roster.digest
    if tampered == "missing":
        shares = (mailbox.shares[0], *mailbox.shares[2:])
    else:
        if tampered == "sealed for another":
            key = world.graph.roster.members[3].sealing_key
            sealed = seal_shares(key, bytes(66), world.terms.round_id, digest, 2, 0)
            bad = SealedShare.sign(sender.party.key, sealed, world.terms.round_id, digest, 2, 0)
        else:
            value = bytearray(bad.sealed if tampered == "sealed" else bad.signature)
            value[40] ^= 1
            changed = bytes(value)
            bad = replace(bad, sealed=changed) if tampered == "sealed" else replace(bad, signature=changed)
        shares = (mailbox.shares[0], replace(bad, peer=2), *mailbox.shares[2:])
    after, left_out = secure.take_mailbox(device.round, replace(mailbox, shares=shares), device.party)
    assert [held.position for held in after.held] == [1, 3, 4]
    assert [device_id for device_id, _ in left_out] == [world.graph.roster.ids[2]]


def test_a_change_with_nan_is_not_sent(world: World) -> None:
    world.group()
    device = world.devices[0]
    with pytest.raises(NotFiniteError):
        secure.mask_change(device.round, np.full_like(device.change, np.nan), 1)


def test_a_masked_update_says_whose_it_is_and_is_the_same_when_made_again(world: World) -> None:
    group = world.group()
    device = world.devices[0]
    body = secure.mask_change(device.round, device.change, 3)
    device.restart()
    assert secure.mask_change(device.round, device.change, 3) == body
    update = MaskedUpdate.decode(body)
    assert update.header.group_digest == group.digest
    assert (update.header.round_id, update.header.model_version) == (world.terms.round_id, 4)
    assert (update.header.device_id, len(update.packed)) == (device.party_id, group.layout.size_bytes)


def trained(world: World, alive: tuple[int, ...] | None = None) -> Survivors:
    world.group()
    return world.train(alive)


def test_survivors_of_another_group_are_refused(world: World) -> None:
    survivors, device = trained(world), world.devices[0]
    with refused(Check.OTHER_GROUP):
        secure.take_survivors(device.round, replace(survivors, group_digest="0" * 64), device.party)


def test_a_device_that_is_said_to_be_alive_and_dead_is_refused(world: World) -> None:
    survivors, device = trained(world), world.devices[0]
    with refused(Check.ALIVE_AND_DEAD):
        secure.take_survivors(device.round, replace(survivors, vanished=(2,)), device.party)


@pytest.mark.parametrize("alive", [(0, 1, 2, 3), (0, 1, 2, 3, 4, 5)])
def test_survivors_that_are_not_the_participants_are_refused(world: World, alive: tuple[int, ...]) -> None:
    survivors, device = trained(world), world.devices[0]
    with refused(Check.NOT_THE_GROUP):
        secure.take_survivors(device.round, replace(survivors, survivors=alive), device.party)


def test_a_device_whose_update_is_not_in_the_sum_discloses_nothing(world: World) -> None:
    survivors, device = trained(world), world.devices[0]
    without = replace(survivors, survivors=(1, 2, 3, 4), vanished=(0,))
    with refused(Check.COUNTED_OUT):
        secure.take_survivors(device.round, without, device.party)


@pytest.mark.parametrize(("minimum", "floor"), [(4, 3), (3, 4)])
def test_survivors_below_the_terms_or_the_devices_floor_are_refused(minimum: int, floor: int) -> None:
    world = World.of(6, terms_of(minimum=minimum), floor=floor)
    survivors, device = trained(world), world.devices[0]
    fewer = replace(survivors, survivors=(0, 1, 2), vanished=(3, 4, 5))
    with refused(Check.TOO_FEW_SURVIVORS):
        secure.take_survivors(device.round, fewer, device.party)


def test_survivors_among_whom_too_few_are_neighbours_are_refused() -> None:
    world = World.of(9, terms_of(dropout_share=0.1))
    survivors, device = trained(world), world.devices[0]
    fewer = replace(survivors, survivors=(0, 1, 2, 3, 4), vanished=(5, 6, 7, 8))
    with refused(Check.TOO_FEW_NEIGHBOURS_ALIVE):
        secure.take_survivors(device.round, fewer, device.party)


def test_a_second_set_of_survivors_is_refused_and_the_first_again_is_not(world: World) -> None:
    survivors, device = trained(world), world.devices[0]
    confirmed = secure.take_survivors(device.round, survivors, device.party)
    confirmed = DeviceRound.decode(confirmed.encode())
    assert secure.take_survivors(confirmed, survivors, device.party) == confirmed
    second = replace(survivors, survivors=(0, 1, 2, 3), vanished=(4,))
    with refused(Check.SECOND_SURVIVORS):
        secure.take_survivors(confirmed, second, device.party)


def test_too_few_confirmations_are_no_quorum(world: World) -> None:
    survivors = trained(world)
    confirmations, device = world.confirm(survivors), world.devices[0]
    quorum = world.group_.quorum
    assert quorum == 3
    short = Confirmations(confirmations.signatures[: quorum - 1])
    with refused(Check.NO_QUORUM):
        secure.take_confirmations(device.round, short)
    enough = Confirmations(confirmations.signatures[:quorum])
    assert secure.take_confirmations(device.round, enough).stage is Stage.DISCLOSED


def test_confirmations_of_another_set_of_another_device_or_of_the_dead_do_not_count() -> None:
    world = World.of(5)
    survivors = trained(world, (0, 1, 2, 3))
    signatures = world.confirm(survivors).signatures
    device = world.devices[0]
    dead = secure.Party(world.devices[4].party.key, 3)
    of_the_dead = secure.confirmation_of(device.round, dead).signature
    elsewhere = replace(device.round, survivors=replace(survivors, vanished=()))
    of_another_set = secure.confirmation_of(elsewhere, world.devices[2].party).signature
    for third in ((4, of_the_dead), (2, of_another_set), (2, signatures[1][1])):
        with refused(Check.NO_QUORUM):
            secure.take_confirmations(device.round, Confirmations((*signatures[:2], third)))


def test_one_share_of_each_neighbour_is_given_never_both(world: World) -> None:
    survivors = trained(world, (0, 1, 2, 4))
    held = {held.position: held for held in world.devices[0].round.held}
    disclosure = world.disclose(world.confirm(survivors), (0,))[0]
    assert dict(disclosure.own) == {position: held[position].own for position in (1, 2, 4)}
    assert dict(disclosure.key) == {3: held[3].key}


def test_shares_are_given_out_once_and_are_gone(world: World) -> None:
    survivors = trained(world)
    confirmations, device = world.confirm(survivors), world.devices[0]
    world.disclose(confirmations, (0,))
    device.restart()
    with refused(Check.DISCLOSED_ALREADY):
        secure.take_confirmations(device.round, confirmations)
    with pytest.raises(RoundError, match="disclosed here, expected"):
        secure.take_survivors(device.round, survivors, device.party)
    assert not device.round.held
    assert Disclosure.decode(device.round.disclosure).survivors_digest == survivors.digest


def test_steps_out_of_order_are_refused(world: World) -> None:
    device, roster = world.devices[0], world.roster()
    with pytest.raises(RoundError, match="joined here, expected shared"):
        secure.take_mailbox(device.round, Mailbox("0" * 64, (), ()), device.party)
    world.group()
    with pytest.raises(RoundError, match="grouped here, expected joined"):
        secure.take_roster(device.round, roster, device.party)
