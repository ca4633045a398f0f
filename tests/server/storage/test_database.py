"""The database: tokens and nonces count once, and nothing is half done."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emberfleet.core.errors import EnrolmentError, StorageError
from emberfleet.core.messages import ModelInfo
from emberfleet.server.storage.database import Database, Device, RoundRow

KITCHEN = Device("a" * 32, b"k" * 32, "kitchen", 5.0, None)
GARAGE = Device("b" * 32, b"g" * 32, "garage", 6.0, None)
ROUND = RoundRow("r" * 32, 1, 1, "collect", 1.0, 2.0, None, ("a", "b"), (), 0, "", {})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.in_file(tmp_path / "fleet.db")
    yield opened
    opened.close()


def test_a_token_lets_one_device_in(database: Database) -> None:
    database.add_token("secret", now=0, lifetime_s=10)
    database.enrol("secret", KITCHEN, now=5)
    assert database.device(KITCHEN.id) == KITCHEN
    with pytest.raises(EnrolmentError, match="used already"):
        database.enrol("secret", GARAGE, now=6)
    assert database.device(GARAGE.id) is None


def test_a_device_that_lost_the_answer_may_ask_again(database: Database) -> None:
    database.add_token("secret", now=0, lifetime_s=10)
    database.enrol("secret", KITCHEN, now=5)
    database.enrol("secret", KITCHEN, now=20)
    assert database.devices() == [KITCHEN]


def test_a_wrong_or_expired_token_is_refused(database: Database) -> None:
    database.add_token("secret", now=0, lifetime_s=10)
    with pytest.raises(EnrolmentError, match="no such"):
        database.enrol("Secret", KITCHEN, now=5)
    with pytest.raises(EnrolmentError, match="expired"):
        database.enrol("secret", KITCHEN, now=11)


def test_a_second_token_of_an_enrolled_device_stays_unspent(database: Database) -> None:
    for token in ("first", "second"):
        database.add_token(token, now=0, lifetime_s=10)
    database.enrol("first", KITCHEN, now=1)
    with pytest.raises(EnrolmentError, match="enrolled already"):
        database.enrol("second", KITCHEN, now=1)
    database.enrol("second", GARAGE, now=1)


def test_a_token_is_not_in_the_file(database: Database, tmp_path: Path) -> None:
    database.add_token("very-secret-token", now=0, lifetime_s=10)
    database.close()
    assert not any(b"very-secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_a_nonce_counts_once_per_device(database: Database) -> None:
    assert database.spend_nonce("a", "n", now=1)
    assert not database.spend_nonce("a", "n", now=2)
    assert database.spend_nonce("b", "n", now=2)
    database.forget_nonces(before=1.5)
    assert database.spend_nonce("a", "n", now=3)
    assert not database.spend_nonce("b", "n", now=3)


def test_a_revocation_keeps_its_first_time(database: Database) -> None:
    database.add_token("secret", now=0, lifetime_s=10)
    database.enrol("secret", KITCHEN, now=5)
    assert database.revoke(KITCHEN.id, now=7)
    assert database.revoke(KITCHEN.id, now=9)
    assert not database.revoke(GARAGE.id, now=9)
    [device] = database.devices()
    assert device.revoked_at == 7


def test_an_update_counts_once(database: Database) -> None:
    database.add_update("r", "a", 3, "d" * 64, {"loss": 1.0}, now=1)
    with pytest.raises(StorageError):
        database.add_update("r", "a", 3, "e" * 64, {"loss": 9.0}, now=2)
    assert database.update_digest("r", "a") == "d" * 64
    assert database.update_digest("r", "b") is None


def test_a_rounds_measurements_are_weighted_by_samples(database: Database) -> None:
    database.add_update("r", "a", 1, "d" * 64, {"loss": 1.0}, now=1)
    database.add_update("r", "b", 3, "d" * 64, {"loss": 2.0, "accuracy": 0.5}, now=1)
    assert database.round_metrics("r") == {"loss": 1.75, "accuracy": 0.5}


def test_a_round_and_its_model_are_stored_together_or_not_at_all(database: Database) -> None:
    database.add_model(ModelInfo(1, "d" * 64, 10), now=0)
    database.save_round(ROUND)
    with pytest.raises(StorageError):
        database.save_publication(replace(ROUND, phase="done"), ModelInfo(1, "e" * 64, 9), now=1)
    assert database.rounds() == [ROUND]
    database.save_publication(replace(ROUND, phase="done"), ModelInfo(2, "e" * 64, 9), now=1)
    assert database.latest_model() == ModelInfo(2, "e" * 64, 9)
    assert database.rounds()[0].phase == "done"


def test_a_database_that_is_not_one_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(StorageError, match="cannot be used"):
        Database.in_file(path)


def test_another_connection_may_use_it_at_once(database: Database, tmp_path: Path) -> None:
    beside = sqlite3.connect(tmp_path / "fleet.db")
    try:
        assert beside.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        database.add_token("secret", now=0, lifetime_s=10)
        assert beside.execute("SELECT count(*) FROM tokens").fetchone() == (1,)
    finally:
        beside.close()
