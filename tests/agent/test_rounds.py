"""The device's side of a round, as pure transitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emberfleet.agent.rounds import (
    Retrained,
    Stage,
    consider_offer,
    finish_training,
    leave_round,
    note_sent,
    seed_of,
)
from emberfleet.core.codec import NotFiniteError
from emberfleet.core.errors import RoundError, SealError
from emberfleet.core.messages import SEAL_INFO, ModelInfo, Upload
from emberfleet.core.offers import RoundOffer, RoundTerms
from emberfleet.core.sealing import SealingKey
from emberfleet.core.updates import TensorPlan, UpdatePlan, decode_update

KEY = SealingKey.generate()
DEVICE = "d" * 32
TERMS = RoundTerms(
    round_id="a" * 32,
    number=4,
    model=ModelInfo(2, "c" * 64, 100),
    round_key=KEY.public,
    update=UpdatePlan((TensorPlan("w", (3,), 1.0),)),
    training={},
    seed=9,
)
OFFER = RoundOffer(TERMS, DEVICE, lease_s=0.0, deadline_s=60.0)
OLD = {"w": np.zeros(3, np.float32)}
RESULT = Retrained(OLD, {"w": np.array([0.1, -0.2, 5.0], np.float32)}, 12, {"loss": 0.5})


def test_what_is_sent_opens_with_the_rounds_key_and_holds_the_clipped_change() -> None:
    round_ = finish_training(consider_offer(OFFER, DEVICE, 2, "", now=0), RESULT, now=30)
    assert round_.stage is Stage.TRAINED
    upload = Upload.decode(round_.body)
    assert (upload.header.round_id, upload.header.model_version) == (TERMS.round_id, 2)
    assert (upload.header.device_id, upload.header.sample_count) == (DEVICE, 12)
    payload = KEY.open(upload.sealed, SEAL_INFO, upload.associated_data)
    np.testing.assert_allclose(decode_update(payload, TERMS.update)["w"], [0.1, -0.2, 1.0], atol=1 / 32767)
    assert note_sent(round_).stage is Stage.SENT


def test_an_update_moved_to_another_device_does_not_open() -> None:
    round_ = finish_training(consider_offer(OFFER, DEVICE, 2, "", now=0), RESULT, now=30)
    upload = Upload.decode(round_.body)
    other = replace(upload.header, device_id="e" * 32).encode()
    with pytest.raises(SealError):
        KEY.open(upload.sealed, SEAL_INFO, other)


@pytest.mark.parametrize(
    ("device", "version", "last_sent", "text"),
    [
        ("e" * 32, 2, "", "another device"),
        (DEVICE, 1, "", "on model 2, expected 1"),
        (DEVICE, 2, "a" * 32, "sent its update already"),
    ],
)
def test_an_offer_that_is_not_for_this_device_now_is_refused(
    device: str, version: int, last_sent: str, text: str
) -> None:
    with pytest.raises(RoundError, match=text):
        consider_offer(OFFER, device, version, last_sent, now=0)


def test_training_that_ends_too_late_sends_nothing() -> None:
    with pytest.raises(RoundError, match="after the deadline"):
        finish_training(consider_offer(OFFER, DEVICE, 2, "", now=100), RESULT, now=160)


def test_a_diverged_training_sends_nothing() -> None:
    bad = replace(RESULT, new={"w": np.array([0, np.nan, 0], np.float32)})
    with pytest.raises(NotFiniteError):
        finish_training(consider_offer(OFFER, DEVICE, 2, "", now=0), bad, now=1)


def test_training_on_nothing_sends_nothing() -> None:
    with pytest.raises(RoundError, match="0 samples"):
        finish_training(consider_offer(OFFER, DEVICE, 2, "", now=0), replace(RESULT, sample_count=0), now=1)


def test_one_update_is_made_and_sent_per_round() -> None:
    considered = consider_offer(OFFER, DEVICE, 2, "", now=0)
    trained = finish_training(considered, RESULT, now=1)
    with pytest.raises(RoundError, match="expected considered"):
        finish_training(trained, RESULT, now=1)
    with pytest.raises(RoundError, match="expected trained"):
        note_sent(considered)
    with pytest.raises(RoundError, match="sent already"):
        leave_round(note_sent(trained))
    assert leave_round(trained).body == b""


def test_seeds_differ_between_devices_and_rounds_and_repeat() -> None:
    seeds = [
        seed_of(replace(OFFER, device_id=device * 32, terms=replace(TERMS, seed=seed)))
        for device in "ab"
        for seed in (1, 2)
    ]
    assert len(set(seeds)) == 4
    assert seed_of(OFFER) == seed_of(OFFER)
