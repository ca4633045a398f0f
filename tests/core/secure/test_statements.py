from __future__ import annotations

from itertools import product

import pytest

from emberfleet.core.errors import FormatError, SealError, ShapeError
from emberfleet.core.sealing import OVERHEAD_BYTES, SealingKey
from emberfleet.core.secure.statements import (
    SHARES_BYTES,
    advert_statement,
    commitment_of,
    open_shares,
    seal_shares,
    share_context,
    share_statement,
    survivors_statement,
)
from tests.core.secure.test_messages import GOLDEN, ROUND

DIGEST, DEVICE = GOLDEN["roster_digest"], "b" * 32
SHARES = bytes(range(SHARES_BYTES))


def test_the_context_of_a_share_is_the_golden_one() -> None:
    assert share_context(ROUND, DIGEST, 0, 1).hex() == GOLDEN["share_context_0_1"]


def test_shares_open_for_their_neighbour_and_under_their_context_alone() -> None:
    key = SealingKey.generate()
    sealed = seal_shares(key.public, SHARES, ROUND, DIGEST, 4, 7)
    assert len(sealed) == SHARES_BYTES + OVERHEAD_BYTES
    assert open_shares(key, sealed, ROUND, DIGEST, 4, 7) == SHARES
    wrong = [("0" * 32, DIGEST, 4, 7), (ROUND, "0" * 64, 4, 7), (ROUND, DIGEST, 7, 4), (ROUND, DIGEST, 4, 8)]
    for context in wrong:
        with pytest.raises(SealError):
            open_shares(key, sealed, *context)
    with pytest.raises(SealError):
        open_shares(SealingKey.generate(), sealed, ROUND, DIGEST, 4, 7)


def test_what_is_sealed_for_a_round_key_is_no_share() -> None:
    from emberfleet.core.messages import SEAL_INFO
    from emberfleet.core.sealing import seal
    from emberfleet.core.secure.statements import SHARE_LABEL

    key, context = SealingKey.generate(), share_context(ROUND, DIGEST, 4, 7)
    with pytest.raises(SealError):
        open_shares(key, seal(key.public, SHARES, SEAL_INFO, context), ROUND, DIGEST, 4, 7)
    with pytest.raises(SealError, match="65 bytes inside, expected 66"):
        open_shares(key, seal(key.public, SHARES[1:], SHARE_LABEL, context), ROUND, DIGEST, 4, 7)


def test_only_two_shares_are_sealed_and_only_to_a_usable_key() -> None:
    with pytest.raises(ShapeError, match="65 bytes, expected 66"):
        seal_shares(SealingKey.generate().public, SHARES[1:], ROUND, DIGEST, 4, 7)
    with pytest.raises(SealError):
        seal_shares(bytes(32), SHARES, ROUND, DIGEST, 4, 7)


def test_a_commitment_binds_secret_round_and_device() -> None:
    cases = product((b"s" * 32, b"t" * 32), (ROUND, "0" * 32), (DEVICE, "c" * 32))
    assert len({commitment_of(*case) for case in cases}) == 8
    assert commitment_of(b"s" * 32, ROUND, DEVICE) == commitment_of(b"s" * 32, ROUND, DEVICE)
    with pytest.raises(ShapeError, match="31 bytes, expected 32"):
        commitment_of(b"s" * 31, ROUND, DEVICE)
    with pytest.raises(FormatError):
        commitment_of(b"s" * 32, ROUND, "device")


def test_no_two_statements_are_the_same_bytes() -> None:
    key, other = b"k" * 32, b"o" * 32
    adverts = {
        advert_statement(ROUND, DIGEST, DEVICE, key, key, key, key),
        advert_statement("0" * 32, DIGEST, DEVICE, key, key, key, key),
        advert_statement(ROUND, "0" * 64, DEVICE, key, key, key, key),
        advert_statement(ROUND, DIGEST, "c" * 32, key, key, key, key),
        *(
            advert_statement(ROUND, DIGEST, DEVICE, *(other if at == place else key for at in range(4)))
            for place in range(4)
        ),
    }
    shares = {
        share_statement(ROUND, DIGEST, 1, 2, b"sealed"),
        share_statement("0" * 32, DIGEST, 1, 2, b"sealed"),
        share_statement(ROUND, "0" * 64, 1, 2, b"sealed"),
        share_statement(ROUND, DIGEST, 2, 1, b"sealed"),
        share_statement(ROUND, DIGEST, 1, 2, b"other"),
    }
    survivors = {survivors_statement(ROUND, DIGEST), survivors_statement("0" * 32, DIGEST)}
    assert len(adverts | shares | survivors) == 8 + 5 + 2
    assert all(statement.startswith(b"DSSEv1 ") for statement in adverts | shares | survivors)
