"""A round as the device sees it: a value and pure transitions, no I/O.

``considered -> trained -> sent``, or ``left`` from either of the first two. The rules: an offer names
this device, this model and a round it has not sent to; the training has to end before the deadline; one
update is sent per round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from emberfleet.core.arrays import Tensors
from emberfleet.core.errors import RoundError
from emberfleet.core.messages import MAX_SAMPLES, SEAL_INFO, UpdateHeader, Upload
from emberfleet.core.offers import RoundOffer
from emberfleet.core.sealing import seal
from emberfleet.core.updates import encode_update


class Stage(StrEnum):
    """How far the device is."""

    CONSIDERED = "considered"
    TRAINED = "trained"
    SENT = "sent"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Retrained:
    """What a retraining gives: tensors before and after, and on how many samples."""

    old: Tensors
    new: Tensors
    sample_count: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceRound:
    """One device in one round."""

    offer: RoundOffer
    received_at: float
    stage: Stage = Stage.CONSIDERED
    body: bytes = b""

    @property
    def deadline_at(self) -> float:
        """By the device's own clock."""
        return self.received_at + self.offer.deadline_s


def consider_offer(
    offer: RoundOffer, device_id: str, model_version: int, last_sent: str, now: float
) -> DeviceRound:
    """Take an offer whose signature was checked.

    Raises:
        RoundError: It is for another device or model, or of a round this device has sent to.
    """
    terms = offer.terms
    if offer.device_id != device_id:
        raise RoundError(f"round {terms.number}: the offer is for another device")
    if terms.model.version != model_version:
        raise RoundError(f"round {terms.number}: on model {terms.model.version}, expected {model_version}")
    if terms.round_id == last_sent:
        raise RoundError(f"round {terms.number}: this device has sent its update already")
    if terms.round_key is None:
        raise RoundError(f"round {terms.number}: in mode {terms.mode}, expected sealed")
    return DeviceRound(offer, now)


def seed_of(offer: RoundOffer) -> int:
    """The device's own seed: differs between devices and rounds, repeats with them."""
    digest = hashlib.sha256(f"{offer.terms.seed}/{offer.device_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def finish_training(round_: DeviceRound, result: Retrained, now: float) -> DeviceRound:
    """Encode and seal what was learnt.

    Raises:
        RoundError: Too late, or no samples were trained on.
        ShapeError, NotFiniteError: The result is not an update of the plan.
    """
    _require(round_, Stage.CONSIDERED)
    offer, terms = round_.offer, round_.offer.terms
    assert terms.round_key is not None
    if now >= round_.deadline_at:
        raise RoundError(f"round {terms.number}: training ended after the deadline")
    if not 1 <= result.sample_count <= MAX_SAMPLES:
        raise RoundError(f"round {terms.number}: trained on {result.sample_count} samples")
    payload = encode_update(result.old, result.new, terms.update, np.random.default_rng(seed_of(offer)))
    header = UpdateHeader(
        terms.round_id, terms.model.version, offer.device_id, result.sample_count, result.metrics
    ).encode()
    return replace(
        round_,
        stage=Stage.TRAINED,
        body=Upload.join(header, seal(terms.round_key, payload, SEAL_INFO, header)),
    )


def note_sent(round_: DeviceRound) -> DeviceRound:
    """The server has the update."""
    _require(round_, Stage.TRAINED)
    return replace(round_, stage=Stage.SENT, body=b"")


def leave_round(round_: DeviceRound) -> DeviceRound:
    """No update will come."""
    if round_.stage is Stage.SENT:
        raise RoundError(f"round {round_.offer.terms.number}: the update was sent already")
    return replace(round_, stage=Stage.LEFT, body=b"")


def _require(round_: DeviceRound, stage: Stage) -> None:
    if round_.stage is not stage:
        raise RoundError(f"round {round_.offer.terms.number} is {round_.stage} here, expected {stage}")
