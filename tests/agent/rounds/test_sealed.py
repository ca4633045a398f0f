from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emberfleet.agent.rounds.sealed import keep_sealed, seal_change, take_offer
from emberfleet.agent.rounds.state import DeviceRound, Stage
from emberfleet.agent.rounds.training import Retrained, seed_of
from emberfleet.core.codec import NotFiniteError
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import RoundError, SealError
from emberfleet.core.messages import SEAL_INFO, ModelInfo, Upload
from emberfleet.core.offers import RoundOffer, RoundTerms
from emberfleet.core.sealing import SealingKey
from emberfleet.core.updates import TensorPlan, UpdatePlan, decode_update
from tests.agent.rounds.world import terms_of

KEY = SealingKey.generate()
DEVICE = "d" * 32
PLAN = UpdatePlan((TensorPlan("w", (3,), 1.0),))
TERMS = RoundTerms("a" * 32, 4, ModelInfo(2, "c" * 64, 100), PLAN, {}, 9, round_key=KEY.public)
OFFER = RoundOffer(TERMS, DEVICE, lease_s=0.0, deadline_s=60.0)
OLD = {"w": np.zeros(3, np.float32)}
RESULT = Retrained(OLD, {"w": np.array([0.1, -0.2, 5.0], np.float32)}, 12, {"loss": 0.5})


def test_what_is_sent_opens_with_the_rounds_key_and_holds_the_clipped_change() -> None:
    upload = Upload.decode(seal_change(take_offer(OFFER), RESULT))
    assert (upload.header.round_id, upload.header.model_version) == (TERMS.round_id, 2)
    assert (upload.header.device_id, upload.header.sample_count) == (DEVICE, 12)
    payload = KEY.open(upload.sealed, SEAL_INFO, upload.associated_data)
    np.testing.assert_allclose(decode_update(payload, PLAN)["w"], [0.1, -0.2, 1.0], atol=1 / 32767)


def test_an_update_moved_to_another_device_does_not_open() -> None:
    upload = Upload.decode(seal_change(take_offer(OFFER), RESULT))
    other = replace(upload.header, device_id="e" * 32).encode()
    with pytest.raises(SealError):
        KEY.open(upload.sealed, SEAL_INFO, other)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_training_that_diverged_sends_nothing(value: float) -> None:
    bad = replace(RESULT, new={"w": np.array([0, value, 0], np.float32)})
    with pytest.raises(NotFiniteError, match="'w' holds NaN or an infinity"):
        seal_change(take_offer(OFFER), bad)


@pytest.mark.parametrize("samples", [0, -1, 1_000_001])
def test_a_weight_nobody_may_claim_is_not_sent(samples: int) -> None:
    with pytest.raises(RoundError, match=f"trained on {samples} samples"):
        seal_change(take_offer(OFFER), replace(RESULT, sample_count=samples))


def test_one_update_is_made_and_it_is_that_one_which_is_remembered() -> None:
    taken = take_offer(OFFER)
    body = seal_change(taken, RESULT)
    kept = DeviceRound.decode(keep_sealed(taken, body).encode())
    assert (kept.stage, kept.body_digest) == (Stage.TRAINED, sha256_hex(body))
    with pytest.raises(RoundError, match="trained here, expected taken"):
        seal_change(kept, RESULT)


def test_a_secure_round_is_not_taken_as_a_sealed_one() -> None:
    with pytest.raises(RoundError, match="in mode secure, expected sealed"):
        take_offer(replace(OFFER, terms=terms_of()))


def test_seeds_differ_between_devices_and_rounds_and_repeat() -> None:
    offers = [RoundOffer(replace(TERMS, seed=seed), device * 32, 0, 9) for device in "ab" for seed in (1, 2)]
    assert len({seed_of(offer) for offer in offers}) == 4
    assert seed_of(OFFER) == seed_of(OFFER)
