"""A sealed round as the device sees it: TAKEN with the offer, TRAINED with the upload made, then over.

The update is encoded as integers and sealed to the round's key; the server opens it and checks it.
"""

from __future__ import annotations

from dataclasses import replace

from emberfleet.agent.rounds.state import DeviceRound, Stage
from emberfleet.agent.rounds.training import Retrained, check_samples, seed_of
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import RoundError
from emberfleet.core.messages import SEAL_INFO, UpdateHeader, Upload
from emberfleet.core.offers import Mode, RoundOffer
from emberfleet.core.sealing import seal


def take_offer(offer: RoundOffer) -> DeviceRound:
    """Take a place in a sealed round; the offer has passed `consider_offer`."""
    if offer.terms.mode is not Mode.SEALED:
        raise RoundError(f"round {offer.terms.number}: in mode {offer.terms.mode}, expected sealed")
    return DeviceRound(offer, Stage.TAKEN)


def seal_change(round_: DeviceRound, result: Retrained) -> bytes:
    """The body of the upload: what was learnt, encoded and sealed.

    Raises:
        RoundError: No samples were trained on.
        ShapeError, NotFiniteError: The result is not an update of the plan.
    """
    import numpy as np

    from emberfleet.core.updates import encode_update

    round_.require(Stage.TAKEN)
    offer, terms = round_.offer, round_.offer.terms
    assert terms.round_key is not None
    check_samples(result, terms.number)
    payload = encode_update(result.old, result.new, terms.update, np.random.default_rng(seed_of(offer)))
    header = UpdateHeader(
        terms.round_id, terms.model.version, offer.device_id, result.sample_count, result.metrics
    ).encode()
    return Upload.join(header, seal(terms.round_key, payload, SEAL_INFO, header))


def keep_sealed(round_: DeviceRound, body: bytes) -> DeviceRound:
    """The update is made: it is this one that is sent, however often."""
    round_.require(Stage.TAKEN)
    return replace(round_, stage=Stage.TRAINED, body_digest=sha256_hex(body))
