"""What a device checks in a round, by name: the table in docs/protocol.md, section What a device checks."""

from __future__ import annotations

from enum import StrEnum

from emberfleet.core.errors import RoundError


class Check(StrEnum):
    """One thing that a server, or a device that works with it, may not do."""

    OTHER_DEVICE = "the offer is for another device"
    OTHER_MODEL = "the offer is on another model than the one at hand"
    ROUND_IS_OVER = "this device has finished or left this round"
    SEALED_ROUND = (
        "the round shows single updates to the server; its owner has to allow that (--allow-sealed)"
    )
    BELOW_FLOOR = "the round may sum fewer updates than this device's minimum_cohort"
    LAX_TERMS = "the terms count on fewer corrupt devices, or on more that vanish, than this device does"
    NO_GRAPH = "no graph keeps so few devices apart from the server"
    OTHER_ROUND = "the roster is of another round"
    OTHER_TERMS = "the roster was made for other terms"
    SWAPPED_KEY = "a member's id is not the hash of its key"
    TOO_FEW_MEMBERS = "the roster has too few members"
    OWN_ADVERT = "the roster does not hold this device's own advert as it was sent"
    NEIGHBOUR_SIGNATURE = "a neighbour has not signed what the roster says of it"
    NEIGHBOUR_KEY = "a neighbour's key agrees on the same secret with everybody"
    OTHER_ROSTER = "the shares are of another roster"
    NOT_A_PARTICIPANT = "this device does not take part: its shares came too late"
    TOO_FEW_PARTICIPANTS = "too few devices take part"
    TOO_FEW_NEIGHBOURS = "too few of this device's neighbours take part"
    OTHER_GROUP = "the survivors are of another group"
    ALIVE_AND_DEAD = "a device is said to have survived and to have vanished"
    NOT_THE_GROUP = "the survivors and the vanished are not the devices that take part"
    COUNTED_OUT = "this device's update is not in the sum"
    TOO_FEW_SURVIVORS = "too few updates are in the sum"
    TOO_FEW_NEIGHBOURS_ALIVE = "too few of this device's neighbours survived"
    SECOND_SURVIVORS = "a second set of survivors, and one was confirmed"
    NO_QUORUM = "too few survivors have confirmed the same set"
    DISCLOSED_ALREADY = "shares were given out in this round already"


class CheckError(RoundError):
    """A round in which this device does not go on; `check` says why."""

    def __init__(self, check: Check, number: int, details: str = "") -> None:
        super().__init__(f"round {number}: {check.value}{f': {details}' if details else ''}")
        self.check = check
