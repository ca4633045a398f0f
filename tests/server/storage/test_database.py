"""The database: tokens and nonces count once, and nothing is half done."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import EnrolmentError, StorageError
from emberfleet.core.messages import ModelInfo
from emberfleet.server.storage.database import Database, Device, RoundRow, StoredMessage
from emberfleet.server.storage.rounds import KEPT_ROUNDS

KITCHEN = Device("a" * 32, b"k" * 32, "kitchen", 5.0, None)
GARAGE = Device("b" * 32, b"g" * 32, "garage", 6.0, None)
ROUND = RoundRow("r" * 32, 1, 1, "collect", 1.0, 2.0, cohort=("a", "b"), terms=b"{}", plan={"cohort": 2})


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


def advert(device: str, sequence: int, body: bytes = b"body") -> StoredMessage:
    return StoredMessage(device * 32, "advert", sequence, sha256_hex(body), body, 3.5)


def test_a_message_counts_once_and_comes_back_as_it_was(database: Database) -> None:
    first, second = advert("a", 1), advert("b", 0, b"")
    database.save_progress("r", [first], None)
    database.save_progress("r", [second], None)
    with pytest.raises(StorageError):
        database.save_progress("r", [advert("a", 2, b"another")], None)
    assert database.messages("r") == [second, first]
    assert database.message_digest("r", "a" * 32, "advert") == first.digest
    assert database.message_digest("r", "a" * 32, "shares") is None
    assert database.message_digest("s", "a" * 32, "advert") is None


def test_messages_and_what_they_lead_to_are_stored_together_or_not_at_all(database: Database) -> None:
    database.save_round(ROUND)
    database.save_progress(ROUND.id, [advert("a", 0)], None)
    moved = replace(ROUND, phase="confirm", survivors=(0, 2), entered={"collect": 2.0, "confirm": 9.5})
    with pytest.raises(StorageError):
        database.save_progress(ROUND.id, [advert("b", 1), advert("a", 2)], moved)
    assert database.round(ROUND.id) == ROUND
    assert [message.sequence for message in database.messages(ROUND.id)] == [0]
    database.save_progress(ROUND.id, [advert("b", 1)], moved)
    assert database.round(ROUND.id) == moved


def test_what_devices_sent_is_forgotten_with_the_round_and_its_digest_is_not(database: Database) -> None:
    database.save_progress(ROUND.id, [advert("a", 0)], ROUND)
    database.save_progress(ROUND.id, [], replace(ROUND, phase="failed", failure="why"), over=True)
    [kept] = database.messages(ROUND.id)
    assert kept.body == b""
    assert database.message_digest(ROUND.id, "a" * 32, "advert") == sha256_hex(b"body")
    assert [row.failure for row in database.rounds()] == ["why"]


def test_a_full_disk_refuses_what_is_new_and_keeps_what_is_there(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "fleet.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    database = Database.in_file(tmp_path / "fleet.db")
    assert [row.number for row in database.rounds()] == [1]
    assert database.latest_model() == ModelInfo(1, "d" * 64, 10)
    stored = database.messages("r" * 32)
    assert len(stored) == int(done.stdout)
    assert all(message.body == bytes([message.sequence]) * 20_000 for message in stored)
    database.close()
    beside = sqlite3.connect(tmp_path / "fleet.db")
    assert beside.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    beside.close()


FULL_DISK = """
import resource, sys
from emberfleet.core.errors import StorageError
from emberfleet.core.messages import ModelInfo
from emberfleet.server.storage.database import Database, RoundRow, StoredMessage

database = Database.in_file(sys.argv[1])
database.add_model(ModelInfo(1, "d" * 64, 10), 0)
database.save_round(RoundRow("r" * 32, 1, 1, "collect", 1.0))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
written = 0
for number in range(100):
    message = StoredMessage(f"{number:032x}", "shares", number, "e" * 64, bytes([number]) * 20_000, 1.0)
    try:
        database.save_progress("r" * 32, [message], None)
    except StorageError:
        continue
    assert number == written, "a hole"
    written += 1
assert 0 < written < 100
assert database.latest_model() == ModelInfo(1, "d" * 64, 10)
assert database.spend_nonce("a", "n", 1) and not database.spend_nonce("a", "n", 2)
print(written)
"""


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be used"):
        Database.in_file(tmp_path / "nowhere" / "fleet.db")


def test_a_database_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    beside = sqlite3.connect(path)
    beside.execute("PRAGMA user_version=1")
    beside.close()
    with pytest.raises(StorageError, match="emberfleet server init"):
        Database.in_file(path)


def test_accepted_messages_survive_a_power_cut_as_far_as_sqlite_can_tell(database: Database) -> None:
    with database._transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


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


def test_a_summary_counts_devices_and_names_none(database: Database) -> None:
    for number in (1, 2, 3):
        row = replace(ROUND, id=f"{number:032x}", number=number, dropped=("a",), culprits=("b",))
        database.save_round(replace(row, cohort=tuple("abc"[:number])))
    found = database.summaries(last=2)
    assert [(one.number, one.cohort, one.dropped, one.culprits) for one in found] == [
        (2, 2, 1, 1),
        (3, 3, 1, 1),
    ]
    assert found[0].plan == ROUND.plan


def test_digests_are_kept_for_some_rounds_and_not_for_ever(database: Database) -> None:
    for number in range(1, KEPT_ROUNDS + 3):
        row = replace(ROUND, id=f"{number:032x}", number=number)
        database.save_progress(row.id, [advert("a", 0)], row)
        database.save_progress(row.id, [], replace(row, phase="done"), over=True)
    kept = [bool(database.messages(f"{number:032x}")) for number in range(1, KEPT_ROUNDS + 3)]
    assert kept == [False, False, *[True] * KEPT_ROUNDS]
