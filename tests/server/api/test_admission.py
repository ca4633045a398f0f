"""Admission over a real database: what a restart forgets, and that a revocation counts at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request

from emberfleet.core.messages import Reason, RefusedError, device_id_of
from emberfleet.core.requests import sign_request
from emberfleet.core.signing import SigningKey
from emberfleet.server.api.admission import Admission
from emberfleet.server.storage.database import Database, Device

KEY = SigningKey.generate()
DEVICE = device_id_of(KEY.verify_key.raw)
NOW = 1_700_000_000.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.in_file(tmp_path / "fleet.db")
    opened.add_token("secret", NOW, 100)
    opened.enrol("secret", Device(DEVICE, KEY.verify_key.raw, "kitchen", NOW, None), NOW)
    yield opened
    opened.close()


def request(method: str, target: str = "/v1/work?model=1") -> Request:
    headers = sign_request(KEY, DEVICE, method, target, b"", NOW)
    path, _, query = target.partition("?")
    return Request(
        {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
    )


def refusal_of(admission: Admission, sent: Request) -> Reason:
    with pytest.raises(RefusedError) as caught:
        admission.admit(sent)
    return caught.value.reason


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_a_request_counts_once(database: Database, method: str) -> None:
    admission, sent = Admission(database, lambda: NOW), request(method)
    assert admission.admit(sent).device_id == DEVICE
    assert refusal_of(admission, sent) is Reason.REPLAYED
    admission.admit(request(method))


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_request_that_changes_something_counts_once_beyond_a_restart(
    database: Database, tmp_path: Path, method: str
) -> None:
    sent = request(method)
    Admission(database, lambda: NOW).admit(sent)
    again = Database.in_file(tmp_path / "fleet.db")
    try:
        assert refusal_of(Admission(again, lambda: NOW), sent) is Reason.REPLAYED
    finally:
        again.close()


def test_a_revocation_by_another_process_counts_from_the_next_request_on(
    database: Database, tmp_path: Path
) -> None:
    admission = Admission(database, lambda: NOW)
    admission.admit(request("GET"))
    beside = Database.in_file(tmp_path / "fleet.db")
    assert beside.revoke(DEVICE, NOW)
    beside.close()
    assert refusal_of(admission, request("GET")) is Reason.REVOKED
    assert refusal_of(admission, request("POST")) is Reason.REVOKED
