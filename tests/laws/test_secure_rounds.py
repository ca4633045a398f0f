"""Secure rounds of the real device's and the real server's state machines, in every order of messages.

Devices and server are pure: what passes between them are bytes, handed over one at a time in an order that
hypothesis chooses. Devices vanish for good at any point; devices and server are restarted from what they have
written down at any point; anything is said again at any point. Whatever happens, the sum is the one of the
survivors' integers, and nobody gives out both secrets of a device.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.agent.rounds import secure
from emberfleet.agent.rounds.state import Stage
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import RoundError
from emberfleet.core.messages import RefusedError
from emberfleet.core.offers import Mode, RoundTerms
from emberfleet.core.secure.answers import Confirmations, Disclosure, MaskedUpdate, Survivors
from emberfleet.core.secure.masking import UpdateSum, check_masked
from emberfleet.core.secure.messages import Mailbox, Roster
from emberfleet.core.secure.parameters import choose_parameters
from emberfleet.core.updates import TensorPlan, UpdatePlan
from emberfleet.server.rounds.answering import FROM, Answer, Answers
from emberfleet.server.rounds.opening import open_round, start
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.rebuilding import rebuild, row_of
from emberfleet.server.rounds.state import OVER, Phase, Round, reached
from emberfleet.server.rounds.steps import Kind, accept, advance, due_at
from emberfleet.server.rounds.unmasking import recover_secrets, sum_uploads
from emberfleet.server.storage.database import StoredMessage
from tests.agent.rounds.world import Device, World, terms_of

ENDS = (Phase.APPLY, *OVER)
SAID = {
    Stage.JOINED: Kind.ADVERT,
    Stage.SHARED: Kind.SHARES,
    Stage.TRAINED: Kind.UPDATE,
    Stage.CONFIRMED: Kind.CONFIRMATION,
    Stage.DISCLOSED: Kind.DISCLOSURE,
}
HEARD = {
    Stage.JOINED: Answer.ROSTER,
    Stage.SHARED: Answer.SHARES,
    Stage.TRAINED: Answer.SURVIVORS,
    Stage.CONFIRMED: Answer.CONFIRMATIONS,
}
POINTS = [(stage, said) for stage in SAID for said in (False, True)]
"""Where a device may vanish: at a stage, before or after it said what belongs to it."""


@dataclass
class Server:
    """The server's machine, and what it has written down."""

    round: Round
    folder: Path
    now: float = 0.0
    messages: dict[tuple[str, Kind], StoredMessage] = field(default_factory=dict)

    def take(self, device_id: str, kind: Kind, body: bytes) -> bool:
        """A message as the coordinator takes it: the same again changes nothing, another one is refused."""
        known = self.messages.get((device_id, kind))
        if known is not None:
            assert known.digest == sha256_hex(body), f"{device_id} sent two different messages {kind}"
            return True
        kept = body
        if kind is Kind.UPDATE:
            update = MaskedUpdate.decode(body)
            check_masked(update.packed, self.round.known_group.layout)
            kept = update.header.encode()
            (self.folder / device_id).write_bytes(body)
        try:
            after = accept(self.round, kind, device_id, kept, self.now)
        except RefusedError:
            return False
        stored = StoredMessage(device_id, kind.value, len(self.messages), sha256_hex(body), kept, self.now)
        self.messages[device_id, kind] = stored
        self.round = advance(after, self.now)
        return True

    def tell(self, device_id: str, what: Answer) -> bytes | None:
        if not reached(self.round, FROM[what]):
            return None
        return Answers().find(self.round, device_id, what)

    def wait(self) -> None:
        """Nobody says anything until something is due."""
        due = due_at(self.round)
        assert due is not None
        # A lease that has run out already is due no more: then it is the phase that ends.
        self.now = (due if due > self.now else self.round.deadline_at) + 0.01
        self.round = advance(self.round, self.now)

    def restart(self) -> None:
        before = self.round
        self.round = rebuild(row_of(before), list(self.messages.values()), self.now)
        assert self.round == before

    def sum(self) -> UpdateSum:
        secrets = recover_secrets(self.round)
        assert secrets.culprits == ()
        return sum_uploads(self.round, lambda device_id: self.folder / device_id, secrets, parts=1)


@dataclass
class Actor:
    """A device at work, until the point where it vanishes."""

    world: World
    device: Device
    gone_at: tuple[Stage, bool] | None
    said: list[tuple[Kind, bytes]] = field(default_factory=list)
    spoke: bool = False
    out: bool = False

    @property
    def id(self) -> str:
        return self.device.party_id

    @property
    def gone(self) -> bool:
        return self.out or self.gone_at == (self.device.round.stage, self.spoke)

    def step(self, server: Server) -> bool:
        """Say or hear the next thing; False where there is nothing to be done now."""
        round_, party = self.device.round, self.device.party
        if round_.stage is Stage.GROUPED:
            self.world.train_one(self.device)
            return True
        if not self.spoke:
            body = {
                Stage.JOINED: lambda: secure.advert_of(round_, party).encode(),
                Stage.SHARED: lambda: round_.shares,
                Stage.TRAINED: lambda: self.device.body,
                Stage.CONFIRMED: lambda: secure.confirmation_of(round_, party).encode(),
                Stage.DISCLOSED: lambda: round_.disclosure,
            }[round_.stage]()
            kind = SAID[round_.stage]
            self.said.append((kind, body))
            taken = server.take(self.id, kind, body)
            self.out = not taken or round_.stage is Stage.DISCLOSED
            self.spoke = True
            return True
        heard = self.hear(server, HEARD[round_.stage])
        self.spoke = self.spoke and not heard
        return heard

    def hear(self, server: Server, what: Answer) -> bool:
        device = self.device
        try:
            data = server.tell(self.id, what)
        except RefusedError:
            self.out = True
            return True
        if data is None:
            return False
        members = len(server.round.known_graph.roster.ids)
        if what is Answer.ROSTER:
            device.round = secure.take_roster(device.round, Roster.decode(data), device.party)
        elif what is Answer.SHARES:
            device.round, left_out = secure.take_mailbox(
                device.round, Mailbox.decode(data, members), device.party
            )
            assert not left_out
        elif what is Answer.SURVIVORS:
            device.round = secure.take_survivors(device.round, Survivors.decode(data, members), device.party)
        else:
            device.round = secure.take_confirmations(device.round, Confirmations.decode(data, members))
        return True

    def restart(self) -> None:
        """What the device did not write down is as if it had not been: it says its last word again."""
        self.device.restart()
        self.spoke = False


def play(
    terms: RoundTerms, count: int, gone: dict[int, tuple[Stage, bool]], seed: int, folder: Path
) -> Server:
    """A round to its end, in an order that follows from the seed."""
    order, secure_terms = random.Random(seed), terms.secure
    assert secure_terms is not None
    plan = RoundPlan(
        mode=Mode.SECURE, cohort=count, minimum=secure_terms.minimum, bits=terms.update.bits, lease_s=5.0,
        corrupt_share=secure_terms.corrupt_share, dropout_share=secure_terms.dropout_share,
    )  # fmt: skip
    world = World.of(count, terms, seed=seed)
    actors = [Actor(world, device, gone.get(place)) for place, device in enumerate(world.devices)]
    drawn = [actor.id for actor in actors]
    order.shuffle(drawn)
    server = Server(start(open_round(terms, plan, 0.0), tuple(drawn), 0.0), folder)
    idle = 0
    while server.round.phase not in ENDS:
        actor = order.choice(actors)
        chance = order.random()
        if chance < 0.03:
            server.restart()
        elif chance < 0.15 and actor.said:
            server.take(actor.id, *order.choice(actor.said))
        elif not actor.gone:
            if chance < 0.25:
                actor.restart()
            idle = 0 if actor.step(server) else idle + 1
        else:
            idle += 1
        if idle and not any(able(actor, server) for actor in actors):
            server.wait()
            idle = 0
    check_secrets_are_safe(server)
    if server.round.phase is Phase.APPLY:
        server.restart()
        world.group_ = server.round.known_group
        found, expected = server.sum(), world.expected(server.round.known_survivors)
        assert found.weight == expected.weight
        np.testing.assert_array_equal(found.mean, expected.mean)
    return server


def able(actor: Actor, server: Server) -> bool:
    """Whether a device can do anything without time passing."""
    if actor.gone:
        return False
    stage = actor.device.round.stage
    return not actor.spoke or stage is Stage.GROUPED or reached(server.round, FROM[HEARD[stage]])


def check_secrets_are_safe(server: Server) -> None:
    """Of no device shares of both secrets were ever given out, whoever gave them."""
    kinds = defaultdict[int, set[str]](set)
    for (_, kind), message in server.messages.items():
        if kind is Kind.DISCLOSURE:
            disclosure = Disclosure.decode(message.body)
            for name, shares in (("own", disclosure.own), ("key", disclosure.key)):
                for position, _ in shares:
                    kinds[position].add(name)
    assert all(len(found) == 1 for found in kinds.values())


def spare(members: int, terms: RoundTerms) -> int:
    """How many of the members may vanish, at whatever point, and the round still ends well."""
    assert terms.secure is not None
    parameters = choose_parameters(members, terms.secure.corrupt_share, terms.secure.dropout_share)
    return min(members - 1 - parameters.threshold, members - terms.secure.minimum)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[RoundTerms, int, dict[int, tuple[Stage, bool]], int]:
    """Terms, a cohort, and who of it vanishes where, within what the threshold bears."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    tensors = tuple(TensorPlan(str(place), (size,), 0.5 + place) for place, size in enumerate(sizes))
    terms = terms_of(
        plan=UpdatePlan(tensors, draw(st.sampled_from([8, 16]))),
        heaviest=draw(st.sampled_from([1, 20, 1000])),
        coordinates=draw(st.sampled_from([1.0, 0.5])),
        corrupt_share=draw(st.sampled_from([0.05, 0.1])),
    )
    count = draw(st.integers(4, 10))
    never_came = draw(st.integers(0, count - 4))
    vanished = draw(st.integers(0, spare(count - never_came, terms)))
    places = draw(st.permutations(range(count)))
    gone: dict[int, tuple[Stage, bool]] = dict.fromkeys(places[:never_came], (Stage.JOINED, False))
    for place in places[never_came : never_came + vanished]:
        gone[place] = draw(st.sampled_from(POINTS[1:]))
    return terms, count, gone, draw(st.integers(0, 2**32))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(max_examples=40, deadline=None)
@given(case=rounds())
def test_whoever_vanishes_within_the_threshold_the_sum_is_the_survivors(
    case: tuple[RoundTerms, int, dict[int, tuple[Stage, bool]], int],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        server = play(*case, Path(name))
    assert server.round.phase is Phase.APPLY, server.round.failure


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(3, 8),
    gone=st.dictionaries(st.integers(0, 7), st.sampled_from(POINTS), max_size=8),
    seed=st.integers(0, 2**32),
)
def test_whoever_vanishes_a_round_ends_with_the_survivors_sum_or_with_none(
    count: int, gone: dict[int, tuple[Stage, bool]], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        server = play(terms_of(), count, gone, seed, Path(name))
    assert server.round.phase is Phase.APPLY or server.round.failure


@pytest.mark.parametrize("seed", [1, 2])
def test_a_sparse_graph_bears_it_too(seed: int, folder: Path) -> None:
    count = 40
    terms = terms_of(minimum=10, corrupt_share=0.05, dropout_share=0.1)
    assert choose_parameters(count, 0.05, 0.1).degree < count - 1
    server = play(terms, count, {3: (Stage.SHARED, True), 17: (Stage.TRAINED, False)}, seed, folder)
    assert server.round.phase is Phase.APPLY
    assert len(server.round.known_survivors.vanished) == 2


def test_an_update_that_is_left_out_of_the_sum_is_noticed(folder: Path) -> None:
    server = play(terms_of(), 5, {}, 7, folder)
    secrets = recover_secrets(server.round)
    first = server.round.known_group.roster.ids[0]
    path = folder / first
    header = MaskedUpdate.decode(path.read_bytes()).header
    size = server.round.known_group.layout.size_bytes
    path.write_bytes(MaskedUpdate.join(header, bytes(size)))
    with pytest.raises(RoundError, match="not what 5 devices can have sent"):
        sum_uploads(server.round, lambda device_id: folder / device_id, secrets, parts=1)
