"""What a device must remember of a round, as one value: with it a killed device goes on where it was.

Each stage keeps what the steps behind it need and nothing more: the secrets behind the device's masks are
gone as soon as its update is made, and the shares it holds for others as soon as it has disclosed. The value
is written to a file before anything that depends on it is sent (`agent.store`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Self

from emberfleet.core.codec import Fields, encode_json, to_base64
from emberfleet.core.errors import RoundError
from emberfleet.core.offers import MAX_MEMBERS, Mode, RoundOffer
from emberfleet.core.secure.answers import Survivors
from emberfleet.core.secure.group import Graph, Group
from emberfleet.core.secure.messages import Roster, check_ascending, read_positions, read_row
from emberfleet.core.secure.shamir import SECRET_BYTES, SHARE_BYTES

FORMAT: Final = "emberfleet device round 1"
MAX_STATE_BYTES: Final = 32 << 20


class Stage(StrEnum):
    """How far the device is."""

    TAKEN = "taken"
    """A sealed round: its offer is taken, and the device trains."""
    JOINED = "joined"
    """A secure round: keys and secrets are made; the advert is to be sent, and the roster to come."""
    SHARED = "shared"
    """The roster is checked and the shares are sealed; they are to be sent, and the group to come."""
    GROUPED = "grouped"
    """Who takes part is known, and the device trains."""
    TRAINED = "trained"
    """The update is made; it is to be sent, and in a secure round the survivors are to come."""
    CONFIRMED = "confirmed"
    """A set of survivors is signed; the signature is to be sent, and those of the others to come."""
    DISCLOSED = "disclosed"
    """Shares are given out; they are to be sent, and the round is over."""


_KEPT: Final[Mapping[tuple[Mode, Stage], frozenset[str]]] = {
    (Mode.SEALED, Stage.TAKEN): frozenset(),
    (Mode.SEALED, Stage.TRAINED): frozenset({"body_digest"}),
    (Mode.SECURE, Stage.JOINED): frozenset({"secrets"}),
    (Mode.SECURE, Stage.SHARED): frozenset({"secrets", "roster", "shares"}),
    (Mode.SECURE, Stage.GROUPED): frozenset({"secrets", "roster", "participants", "held"}),
    (Mode.SECURE, Stage.TRAINED): frozenset({"body_digest", "roster", "participants", "held"}),
    (Mode.SECURE, Stage.CONFIRMED): frozenset({"roster", "participants", "held", "survivors"}),
    (Mode.SECURE, Stage.DISCLOSED): frozenset({"disclosure"}),
}
"""What a device remembers at each stage, beside the offer."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """A device's secrets of one round, 32 random bytes each.

    Attributes:
        mask_key: The X25519 private key that its pairwise masks follow from.
        sealing_key: The X25519 private key that shares are sealed to.
        own_mask: The secret behind its own mask.
        rounding: What its rounding is seeded with; shared with nobody.
    """

    mask_key: bytes = field(repr=False)
    sealing_key: bytes = field(repr=False)
    own_mask: bytes = field(repr=False)
    rounding: bytes = field(repr=False)

    @classmethod
    def draw(cls, random_bytes: Callable[[int], bytes]) -> Self:
        """New secrets from a source of randomness."""
        return cls(*(random_bytes(SECRET_BYTES) for _ in range(4)))

    def to_json(self) -> list[str]:
        """As a JSON value."""
        return [to_base64(part) for part in (self.mask_key, self.sealing_key, self.own_mask, self.rounding)]


@dataclass(frozen=True, slots=True)
class Held:
    """The shares of a neighbour's two secrets that this device holds, encoded."""

    position: int
    key: bytes = field(repr=False)
    own: bytes = field(repr=False)


@dataclass(frozen=True)
class DeviceRound:
    """One device in one round.

    Attributes:
        secrets: Its own.
        roster: As the server sent it, checked.
        shares: The message to be sent, encoded: sealing it again would give other bytes.
        participants: Positions of the devices that take part.
        held: What the neighbours have shared with this device.
        body_digest: SHA-256 of the upload's body, which lies in a file of its own.
        survivors: The one set that this device confirms.
        disclosure: The message to be sent, encoded.
    """

    offer: RoundOffer
    stage: Stage
    secrets: Secrets | None = None
    roster: Roster | None = None
    shares: bytes = field(default=b"", repr=False)
    participants: tuple[int, ...] = ()
    held: tuple[Held, ...] = ()
    body_digest: str = ""
    survivors: Survivors | None = None
    disclosure: bytes = field(default=b"", repr=False)

    @property
    def round_id(self) -> str:
        """The round's."""
        return self.offer.terms.round_id

    @property
    def number(self) -> int:
        """The round's."""
        return self.offer.terms.number

    @cached_property
    def graph(self) -> Graph:
        """Who is whose neighbour; from the stage SHARED on."""
        assert self.roster is not None
        return Graph(self.roster, self.offer.terms)

    @cached_property
    def group(self) -> Group:
        """Who takes part; from the stage GROUPED on."""
        return Group(self.graph, self.participants)

    @cached_property
    def position(self) -> int:
        """This device's, in the roster."""
        assert self.roster is not None
        found = self.roster.position_of(self.offer.device_id)
        assert found is not None
        return found

    def require(self, *stages: Stage) -> None:
        """Raise `RoundError` unless the device is at one of these stages."""
        if self.stage not in stages:
            raise RoundError(
                f"round {self.number} is {self.stage} here, expected {' or '.join(sorted(stages))}"
            )

    def encode(self) -> bytes:
        """As canonical JSON, secrets included: for a file that only its owner reads."""
        kept = _KEPT[self.offer.terms.mode, self.stage]
        written = {"format": FORMAT, "stage": self.stage.value, "offer": self.offer.to_json()}
        return encode_json(written | {name: _WRITERS[name](self) for name in kept})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote; raises `FormatError` alone."""
        fields = Fields.parse(data, "device's round", MAX_STATE_BYTES)
        fields.choice("format", (FORMAT,))
        stage = Stage(fields.choice("stage", tuple(Stage)))
        offer = RoundOffer.from_fields(fields.nested("offer", "round offer"))
        kept = _KEPT.get((offer.terms.mode, stage))
        if kept is None:
            raise fields.wrong("stage", f"one of a {offer.terms.mode} round")
        found = {name: read(fields) for name, read in _READERS.items() if name in kept}
        fields.done()
        roster = found.get("roster")
        if isinstance(roster, Roster) and roster.position_of(offer.device_id) is None:
            raise fields.wrong("roster", "one with this device")
        return cls(offer, stage, **found)


_WRITERS: Final[Mapping[str, Callable[[DeviceRound], Any]]] = {
    "secrets": lambda round_: round_.secrets and round_.secrets.to_json(),
    "roster": lambda round_: round_.roster and to_base64(round_.roster.data),
    "shares": lambda round_: to_base64(round_.shares),
    "participants": lambda round_: list(round_.participants),
    "held": lambda round_: [
        [held.position, to_base64(held.key), to_base64(held.own)] for held in round_.held
    ],
    "body_digest": lambda round_: round_.body_digest,
    "survivors": lambda round_: round_.survivors and to_base64(round_.survivors.encode()),
    "disclosure": lambda round_: to_base64(round_.disclosure),
}


def _read_secrets(fields: Fields) -> Secrets:
    names = ("mask_key", "sealing_key", "own_mask", "rounding")
    row = read_row(fields.items("secrets", len(names)), "secrets", names)
    return Secrets(*(row.data(name, SECRET_BYTES) for name in names))


def _read_held(fields: Fields) -> tuple[Held, ...]:
    rows = [read_row(item, "held", ("position", "key", "own")) for item in fields.items("held", MAX_MEMBERS)]
    found = tuple(
        Held(
            row.integer("position", 0, MAX_MEMBERS - 1),
            row.data("key", SHARE_BYTES),
            row.data("own", SHARE_BYTES),
        )
        for row in rows
    )
    check_ascending([held.position for held in found], fields, "held")
    return found


_READERS: Final[Mapping[str, Callable[[Fields], Any]]] = {
    "secrets": _read_secrets,
    "roster": lambda fields: Roster.decode(fields.data("roster", max_bytes=MAX_STATE_BYTES)),
    "shares": lambda fields: fields.data("shares", max_bytes=MAX_STATE_BYTES),
    "participants": lambda fields: read_positions(fields, "participants", MAX_MEMBERS),
    "held": _read_held,
    "body_digest": lambda fields: fields.digest("body_digest"),
    "survivors": lambda fields: Survivors.decode(fields.data("survivors", max_bytes=MAX_STATE_BYTES)),
    "disclosure": lambda fields: fields.data("disclosure", max_bytes=MAX_STATE_BYTES),
}
