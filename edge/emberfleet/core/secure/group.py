"""What both sides of a secure round compute alike: the graph, the group, and what a sum of it needs.

The graph stands once the roster does: degree and threshold by calculation from its size and the terms, the
order on the ring from its digest. The group is who of the roster takes part; masks, layout and quorum follow
from it. docs/protocol.md, section A secure round.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from emberfleet.core.codec import encode_json
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import RoundError
from emberfleet.core.offers import RoundTerms, SecureTerms
from emberfleet.core.secure.agreement import RoundContext
from emberfleet.core.secure.coordinates import Coordinates
from emberfleet.core.secure.layout import SumLayout
from emberfleet.core.secure.messages import Roster
from emberfleet.core.secure.neighbours import harary_graph, neighbours_of, permute
from emberfleet.core.secure.pairs import Member
from emberfleet.core.secure.parameters import GraphParameters, choose_parameters

COORDINATES_LABEL: Final = "emberfleet secure sum 1 coordinates"


@dataclass(frozen=True)
class Graph:
    """Who is whose neighbour in a roster.

    Attributes:
        terms: Of a secure round.
    """

    roster: Roster
    terms: RoundTerms

    @property
    def secure(self) -> SecureTerms:
        """The terms of the sum."""
        if self.terms.secure is None:
            raise RoundError(f"round {self.terms.number}: it is sealed, and has no graph")
        return self.terms.secure

    @cached_property
    def parameters(self) -> GraphParameters:
        """Degree and threshold; raises `ConfigError` where no graph will do for so few members."""
        secure = self.secure
        return choose_parameters(len(self.roster.members), secure.corrupt_share, secure.dropout_share)

    @property
    def threshold(self) -> int:
        """Shares that give a secret back."""
        return self.parameters.threshold

    @property
    def corrupt(self) -> int:
        """The most members that may work with the server: the corrupt share of them, rounded down."""
        return math.floor(self.secure.corrupt_share * len(self.roster.members) + 1e-9)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The positions in their order on the ring."""
        return permute(bytes.fromhex(self.roster.digest), len(self.roster.members))

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """The neighbours of every position, ascending."""
        return harary_graph(self.order, self.parameters.degree)

    def neighbours_of(self, position: int) -> tuple[int, ...]:
        """The neighbours of one position, ascending, for a device that wants its own."""
        return neighbours_of(position, self.order, self.parameters.degree)

    def participants(self, senders: Iterable[int]) -> tuple[int, ...]:
        """Those who sent shares, except whom fewer participating neighbours than the threshold could save."""
        left = set(senders)
        while True:
            lost = {
                position
                for position in left
                if sum(other in left for other in self.neighbours[position]) < self.threshold
            }
            if not lost:
                return tuple(sorted(left))
            left -= lost


@dataclass(frozen=True)
class Group:
    """The devices whose updates a round may sum.

    Attributes:
        participants: Positions, ascending.
    """

    graph: Graph
    participants: tuple[int, ...]

    @property
    def roster(self) -> Roster:
        """The roster that positions point into."""
        return self.graph.roster

    @property
    def terms(self) -> RoundTerms:
        """Of the round."""
        return self.graph.terms

    @cached_property
    def digest(self) -> str:
        """What every mask of the round is bound to."""
        return sha256_hex(
            encode_json({"roster_digest": self.roster.digest, "participants": list(self.participants)})
        )

    @cached_property
    def context(self) -> RoundContext:
        """What every seed of the round is derived for."""
        return RoundContext(self.roster.round_id, bytes.fromhex(self.digest))

    @cached_property
    def layout(self) -> SumLayout:
        """What stands where in the vector that is summed."""
        secure, chosen = self.graph.secure, None
        if secure.coordinates < 1:
            seed = sha256_hex(f"{COORDINATES_LABEL}/{self.roster.terms_digest}".encode())
            chosen = Coordinates.of_share(bytes.fromhex(seed), secure.coordinates)
        return SumLayout(self.terms.update, len(self.participants), secure.heaviest, chosen)

    @cached_property
    def quorum(self) -> int:
        """Confirmations that two different sets of survivors can not both have."""
        return (len(self.participants) + self.graph.corrupt) // 2 + 1

    @cached_property
    def neighbours(self) -> dict[int, tuple[int, ...]]:
        """The participating neighbours of each participant, ascending."""
        return {
            position: tuple(other for other in self.graph.neighbours[position] if other in self._present)
            for position in self.participants
        }

    def neighbours_of(self, position: int) -> tuple[int, ...]:
        """The participating neighbours of one position, for a device that wants its own."""
        return tuple(other for other in self.graph.neighbours_of(position) if other in self._present)

    def member(self, position: int) -> Member:
        """A participant as the masks know it."""
        advert = self.roster.members[position]
        return Member(advert.device_id, advert.mask_key)

    def lost(self, survivors: Collection[int]) -> tuple[int, ...]:
        """The participants whose secret too few surviving neighbours hold shares of, and which is needed.

        A vanished one without any surviving neighbour left no mask behind, and its secret is not needed.
        """
        alive = frozenset(survivors)
        found = []
        for position, neighbours in self.neighbours.items():
            holders = sum(other in alive for other in neighbours)
            if holders < self.graph.threshold and (holders or position in alive):
                found.append(position)
        return tuple(found)

    def can_end(self, survivors: Collection[int]) -> bool:
        """Whether a sum of these survivors may be asked for and can be unmasked."""
        enough = max(self.graph.secure.minimum, self.quorum)
        return len(survivors) >= enough and not self.lost(survivors)

    @cached_property
    def _present(self) -> frozenset[int]:
        return frozenset(self.participants)
