"""A device that lies, replays or steals, against a real server: it hears why, and nothing of it counts.

Here is what every mode refuses alike, and single updates of sealed rounds; what a device can do wrong in the
messages of secure rounds stands in `test_hostile_secure_rounds`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from emberfleet.core.messages import MAX_SMALL_BYTES, Receipt, device_id_of
from emberfleet.core.offers import Mode
from emberfleet.core.sealing import SealingKey
from emberfleet.core.signing import SigningKey
from emberfleet.server.fleet import make_tokens
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.storage.database import Database
from tests.attacks.hostile import Caller, caller, check, enrol, held_kib
from tests.fleet import RunningServer, serve, small_model

PLAN = RoundPlan(
    mode=Mode.SEALED, cohort=2, minimum=1, bits=32, deadline_s=300, lease_s=0, norm_bound=0.2,
    weight_bound=1000,
)  # fmt: skip
GROWTH_KIB = 16 << 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve(tmp_path_factory.mktemp("fleet") / "server", PLAN, rounds=0) as running:
        yield running


@pytest.fixture(scope="module")
def both(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> list[Caller]:
    """The two devices of the round at hand: one hostile, one honest."""
    found: dict[str, Caller] = {}

    def join(name: str) -> None:
        found[name] = caller(server, tmp_path_factory.mktemp(name), wait=20)

    joining = [threading.Thread(target=join, args=(name,)) for name in ("hostile", "honest")]
    for thread in joining:
        thread.start()
    for thread in joining:
        thread.join(30)
    return [found["hostile"], found["honest"]]


@pytest.fixture(scope="module")
def hostile(both: list[Caller]) -> Caller:
    return both[0]


BAD_UPLOADS: dict[str, tuple[Callable[[Any], bytes], int, str]] = {
    "NaN": (lambda c: c.body(c.floats(np.nan)), 422, "not_finite"),
    "infinity": (lambda c: c.body(c.floats(-np.inf)), 422, "not_finite"),
    "NaN in the metrics": (lambda c: c.body().replace(b'"metrics":{}', b'"metrics":NaN'), 422, "not_finite"),
    "a million times too large": (lambda c: c.body(c.floats(1e6)), 422, "out_of_range"),
    "a million times too small": (lambda c: c.body(c.floats(-1e6)), 422, "out_of_range"),
    "a norm beyond the bound": (lambda c: c.body(c.floats(0.24)), 422, "norm"),
    "a weight beyond the bound": (
        lambda c: c.body(header=replace(c.header(), sample_count=1001)),
        422,
        "weight",
    ),
    "one value too few": (lambda c: c.body(bytes(c.offer.terms.update.size_bytes - 4)), 400, "wrong_length"),
    "one value alone": (lambda c: c.body(bytes(4)), 400, "wrong_length"),
    "no value": (lambda c: c.body(b""), 400, "wrong_length"),
    "one value too many": (lambda c: c.body(bytes(c.offer.terms.update.size_bytes + 4)), 400, "wrong_length"),
    "megabytes": (lambda c: bytes(1 << 20), 413, "too_large"),
    "a JSON bomb as its header": (lambda c: c.framed(b'{"metrics":' + b"[" * 8000), 400, "malformed"),
    "a header that says its sizes twice": (
        lambda c: c.framed(c.header().encode()[:-1] + b',"sample_count":6}'),
        400,
        "malformed",
    ),
    "a header of hundreds of metrics": (
        lambda c: c.framed(replace(c.header(), metrics={str(n): 1.0 for n in range(300)}).encode()),
        400,
        "malformed",
    ),
    "not an upload": (lambda c: b"hello", 400, "malformed"),
    "nothing": (lambda c: b"", 400, "malformed"),
    "another round's": (lambda c: c.body(header=replace(c.header(), round_id="f" * 32)), 409, "other_round"),
    "another model's": (lambda c: c.body(header=replace(c.header(), model_version=9)), 409, "other_model"),
    "another device's": (lambda c: c.body(header=replace(c.header(), device_id="f" * 32)), 400, "malformed"),
    "another round's key": (lambda c: c.body(key=SealingKey.generate().public), 400, "not_sealed"),
    "a changed byte": (lambda c: c.body()[:-1] + b"\0", 400, "not_sealed"),
    "another header": (lambda c: c.body().replace(b'_count":5', b'_count":6'), 400, "not_sealed"),
    "no samples": (lambda c: c.body().replace(b'_count":5', b'_count":0'), 400, "malformed"),
    "negative samples": (lambda c: c.body(header=replace(c.header(), sample_count=-5)), 400, "malformed"),
    "1e15 samples": (lambda c: c.body(header=replace(c.header(), sample_count=10**15)), 400, "malformed"),
}


@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_a_bad_update_is_refused_and_does_not_count(
    name: str, server: RunningServer, hostile: Caller
) -> None:
    make, status, reason = BAD_UPLOADS[name]
    check(hostile.put(make(hostile)), status, reason)
    assert server.status()["round"]["accepted"] == 0


def test_a_captured_request_is_refused_when_replayed(server: RunningServer, hostile: Caller) -> None:
    target = "/v1/models/latest"
    headers = hostile.headers("GET", target)
    assert httpx.get(server.address + target, headers=headers).status_code == 200
    check(httpx.get(server.address + target, headers=headers), 412, "replayed")


def test_a_device_that_is_not_enrolled_is_refused(hostile: Caller) -> None:
    key = SigningKey.generate()
    stranger = {"key": key, "device_id": device_id_of(key.verify_key.raw)}
    check(hostile.put(hostile.body(), **stranger), 401, "not_enrolled")


def test_a_forged_signature_is_refused(hostile: Caller) -> None:
    check(hostile.put(hostile.body(), key=SigningKey.generate()), 401, "bad_signature")


def test_a_changed_body_is_refused(server: RunningServer, hostile: Caller) -> None:
    body = hostile.body()
    target = f"{hostile.target}?offset=0&size={len(body)}&digest={'0' * 64}"
    headers = hostile.headers("PUT", target, body)
    answer = httpx.put(server.address + target, content=body[:-1] + bytes([body[-1] ^ 1]), headers=headers)
    check(answer, 401, "bad_signature")


def test_a_token_is_good_once(server: RunningServer) -> None:
    [token] = make_tokens(server.folder)
    assert enrol(server, token, SigningKey.generate()).status_code == 200
    check(enrol(server, token, SigningKey.generate()), 403, "bad_token")
    check(enrol(server, "made-up", SigningKey.generate()), 403, "bad_token")


def test_nobody_enrols_a_key_that_is_not_theirs(server: RunningServer) -> None:
    [token] = make_tokens(server.folder)
    check(enrol(server, token, SigningKey.generate(), signer=SigningKey.generate()), 401, "bad_signature")
    assert enrol(server, token, SigningKey.generate()).status_code == 200


def test_a_revoked_device_is_shut_out_at_once(server: RunningServer, tmp_path: Path) -> None:
    device = caller(server, tmp_path, wait=0)
    database = Database.in_file(server.folder / "fleet.db")
    assert database.revoke(device.identity.device_id, time.time())
    database.close()
    check(device.ask("GET", "/v1/models/latest"), 403, "revoked")


def test_a_json_bomb_in_place_of_an_enrolment_is_refused(server: RunningServer) -> None:
    for body, status, reason in (
        (b'{"token":' + b"[" * 8000, 400, "malformed"),
        (b'{"token":' + b'{"a":' * 2000, 400, "malformed"),
        (b"9" * (MAX_SMALL_BYTES + 1), 413, "too_large"),
    ):
        check(httpx.post(server.address + "/v1/enrol", content=body), status, reason)


def test_bombs_take_no_memory(server: RunningServer, hostile: Caller) -> None:
    body = hostile.framed(b'{"metrics":' + b'{"a":' * 1500)
    hostile.put(body)
    before = held_kib()
    with httpx.Client() as client:
        for _ in range(150):
            client.post(server.address + "/v1/enrol", content=b'{"token":' + b"[" * 8000)
    for _ in range(30):
        hostile.put(body)
    assert held_kib() - before < GROWTH_KIB


def test_only_good_updates_count_each_once_and_their_mean_is_exact(
    server: RunningServer, both: list[Caller]
) -> None:
    for caller_, value in zip(both, (0.125, -0.0625), strict=True):
        body = caller_.body(caller_.floats(value))
        first = caller_.put(body)
        assert first.status_code == 200, first.text
        if caller_ is both[0]:
            assert Receipt.decode(first.content).accepted == 1
            assert caller_.put(body).content == first.content
            check(caller_.put(caller_.body(caller_.floats(0.1))), 409, "already_accepted")
            assert server.status()["round"]["accepted"] == 1
    [row] = server.wait_for_rounds(1)
    assert (row["phase"], row["accepted"]) == ("done", 2)
    before, after = small_model(), server.model(2)
    moved = np.concatenate([(after[name] - before[name]).ravel() for name in sorted(before)])
    assert moved[3] == np.float32((0.125 - 0.0625) / 2)
    assert np.count_nonzero(moved) == 1


def test_an_update_is_replayed_when_its_round_is_over(server: RunningServer, hostile: Caller) -> None:
    check(hostile.put(hostile.body(hostile.floats(0.125))), 410, "late")
    assert server.status()["model"]["version"] == 2
