"""A secure round played through, message by message, as the server stores it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from emberfleet.core.digest import sha256_hex
from emberfleet.core.offers import Mode, RoundTerms
from emberfleet.core.secure.answers import MaskedUpdate
from emberfleet.server.rounds.confirming import confirmations_of
from emberfleet.server.rounds.opening import open_round, start
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.rebuilding import row_of
from emberfleet.server.rounds.sharing import mailbox_of
from emberfleet.server.rounds.state import Phase, Round
from emberfleet.server.rounds.steps import Kind, accept, advance
from emberfleet.server.storage.database import RoundRow, StoredMessage
from tests.server.rounds.devices import Device, devices_of, terms_of

PLAN = RoundPlan(
    mode=Mode.SECURE, cohort=5, minimum=3, keys_s=30, shares_s=30, deadline_s=100, confirm_s=30, unmask_s=30,
    lease_s=10, dropout_share=0.3, corrupt_share=0.05,
)  # fmt: skip

KINDS = {
    Phase.KEYS: Kind.ADVERT,
    Phase.SHARES: Kind.SHARES,
    Phase.COLLECT: Kind.UPDATE,
    Phase.CONFIRM: Kind.CONFIRMATION,
    Phase.UNMASK: Kind.DISCLOSURE,
}


@dataclass
class Play:
    """A round and all that would be stored of it."""

    plan: RoundPlan = PLAN
    count: int = 5
    round: Round = field(init=False)
    now: float = 0.0
    messages: list[StoredMessage] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    stored: Callable[[Play], None] = field(default=lambda _: None)

    def __post_init__(self) -> None:
        self.terms: RoundTerms = terms_of(self.plan)
        self.devices = devices_of(self.count, self.terms)
        self.round = start(
            open_round(self.terms, self.plan, 0.0), tuple(device.id for device in self.devices), 0.0
        )

    @property
    def phase(self) -> Phase:
        return self.round.phase

    def at(self, phase: Phase) -> bool:
        return self.round.phase is phase

    @property
    def row(self) -> RoundRow:
        return row_of(self.round)

    def send(self, device: Device, kind: Kind, body: bytes, whole: bytes | None = None) -> None:
        """A message as the coordinator takes it."""
        self.round = advance(accept(self.round, kind, device.id, body, self.now), self.now)
        digest = sha256_hex(body if whole is None else whole)
        self.messages.append(StoredMessage(device.id, kind.value, len(self.messages), digest, body, self.now))
        self.stored(self)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.round = advance(self.round, self.now)
        self.stored(self)

    def advert(self, device: Device) -> None:
        self.send(device, Kind.ADVERT, device.advert().encode())

    def shares(self, device: Device) -> None:
        roster = self.round.known_graph.roster.encode()
        self.send(device, Kind.SHARES, device.shares(roster).encode())

    def update(self, device: Device) -> None:
        device.open_mailbox(mailbox_of(self.round, device.id).encode())
        body = device.update()
        self.bodies[device.id] = body
        self.send(device, Kind.UPDATE, MaskedUpdate.decode(body).header.encode(), body)

    def decline(self, device: Device) -> None:
        self.send(device, Kind.DECLINE, b"")

    def confirm(self, device: Device) -> None:
        told = self.round.known_survivors.encode()
        self.send(device, Kind.CONFIRMATION, device.confirmation(told).encode())

    def disclose(self, device: Device, wrong: Sequence[int] = ()) -> None:
        assert confirmations_of(self.round).signatures
        self.send(device, Kind.DISCLOSURE, device.disclosure(wrong).encode())

    def until(self, phase: Phase, devices: Iterable[Device] | None = None) -> Play:
        """Let these devices (all, when not said) go on together until the round is in a phase."""
        chosen = list(self.devices if devices is None else devices)
        acts = {
            Phase.KEYS: self.advert,
            Phase.SHARES: self.shares,
            Phase.COLLECT: self.update,
            Phase.CONFIRM: self.confirm,
            Phase.UNMASK: self.disclose,
        }
        while self.round.phase is not phase:
            before = self.round.phase
            spoken = {message.device_id for message in self.messages if Kind(message.kind) is KINDS[before]}
            for device in chosen:
                if self.round.phase is before and device.id not in spoken:
                    acts[before](device)
            if self.round.phase is before:
                self.now = self.round.deadline_at
                self.wait(0)
            assert self.round.phase is not Phase.FAILED, self.round.failure
        return self


def with_plan(**changes: object) -> RoundPlan:
    return replace(PLAN, **changes)  # type: ignore[arg-type]
