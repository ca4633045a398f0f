"""The coordinator: what is resent counts once, and what a stopped server left is written down."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.messages import (
    SEAL_INFO,
    Reason,
    Receipt,
    RefusedError,
    UpdateHeader,
    Upload,
    WorkReply,
)
from emberfleet.core.offers import Mode, RoundOffer
from emberfleet.core.sealing import seal
from emberfleet.core.signing import SigningKey
from emberfleet.server.fleet import Fleet, ServerConfig, init_server
from emberfleet.server.registry.publisher import OpenedModel
from emberfleet.server.rounds.coordinator import Coordinator
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.storage.database import RoundRow
from tests.fleet import make_bundle, open_bundle, small_model

PLAN = RoundPlan(mode=Mode.SEALED, cohort=2, minimum=2, lease_s=0)
DEVICES = ("a" * 32, "b" * 32)
Scenario = Callable[[Coordinator], Awaitable[None]]


def make_fleet(folder: Path, publisher: object = None) -> Fleet:
    key = SigningKey.generate()

    def opener(data: bytes) -> OpenedModel:
        return open_bundle(data, (key.verify_key,))

    def publish(current: bytes, tensors: object, version: int) -> bytes:
        return make_bundle(tensors, version, key)  # type: ignore[arg-type]

    init_server(folder, make_bundle(small_model(), 1, key), plan=PLAN, bundle_key=key, opener=opener)
    return Fleet(ServerConfig(folder, publisher or publish, rounds=1, opener=opener))  # type: ignore[arg-type]


def play(fleet: Fleet, scenario: Scenario) -> None:
    """Run a coordinator while a scenario lasts."""

    async def both() -> None:
        fleet.coordinator.prepare()
        rounds = asyncio.create_task(fleet.coordinator.run())
        try:
            await asyncio.wait_for(scenario(fleet.coordinator), 20)
        finally:
            rounds.cancel()
            await asyncio.gather(rounds, return_exceptions=True)

    try:
        asyncio.run(both())
    finally:
        fleet.close()


async def ask(coordinator: Coordinator, device: str, wait_s: float) -> WorkReply:
    never = asyncio.get_running_loop().create_future()
    return await coordinator.wait_for_work(device, 1, wait_s, never)


async def offers(coordinator: Coordinator, key: bytes) -> list[RoundOffer]:
    replies = await asyncio.gather(*(ask(coordinator, device, 10) for device in DEVICES))
    assert all(reply.offer for reply in replies)
    return [RoundOffer.open(reply.offer or b"", key) for reply in replies]


def body_of(offer: RoundOffer, value: int = 0, samples: int = 1) -> bytes:
    header = UpdateHeader(offer.terms.round_id, offer.terms.model.version, offer.device_id, samples).encode()
    payload = np.full(offer.terms.update.size, value, offer.terms.update.wire_type).tobytes()
    return Upload.join(header, seal(offer.terms.round_key or b"", payload, SEAL_INFO, header))


async def send(fleet: Fleet, round_id: str, device_id: str, body: bytes) -> Receipt:
    """Bring an upload to the coordinator as the route does."""
    digest = hashlib.sha256(body).hexdigest()
    fleet.uploads.write(round_id, device_id, len(body), digest, 0, body)
    fleet.uploads.finish(round_id, device_id, len(body), digest)
    return await fleet.coordinator.accept_upload(round_id, device_id, fleet.uploads.path(round_id, device_id))


async def until_model(coordinator: Coordinator, version: int) -> None:
    while coordinator.model.version != version:
        await asyncio.sleep(0.01)


def test_an_update_sent_again_gives_the_same_receipt_and_counts_once(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "server")

    async def scenario(coordinator: Coordinator) -> None:
        first, second = await offers(coordinator, fleet.server_key.verify_key.raw)
        body = body_of(first, 32767, samples=3)
        receipt = await send(fleet, first.terms.round_id, DEVICES[0], body)
        assert await send(fleet, first.terms.round_id, DEVICES[0], body) == receipt
        with pytest.raises(RefusedError) as caught:
            await send(fleet, first.terms.round_id, DEVICES[0], body_of(first, 32767))
        assert caught.value.reason is Reason.ALREADY_ACCEPTED
        stored = list((tmp_path / "server" / "rounds").rglob("*.update"))
        assert [path.read_bytes() for path in stored] == [body]
        await send(fleet, second.terms.round_id, DEVICES[1], body_of(second, 0, samples=1))
        await until_model(coordinator, 2)
        assert not list((tmp_path / "server" / "rounds").iterdir())
        _, path = fleet.registry.path(2) or (None, Path())
        assert path.exists()
        np.testing.assert_allclose(
            fleet.registry.load(coordinator.model)[1].tensors["conv/bias"], 0.25 * 3 / 4
        )

    play(fleet, scenario)


def test_a_refused_update_leaves_the_device_free_to_send_a_good_one(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "server")

    async def scenario(coordinator: Coordinator) -> None:
        first, _ = await offers(coordinator, fleet.server_key.verify_key.raw)
        wrong = body_of(
            replace(first, terms=replace(first.terms, model=replace(first.terms.model, version=9)))
        )
        with pytest.raises(RefusedError):
            await send(fleet, first.terms.round_id, DEVICES[0], wrong)
        fleet.uploads.drop(first.terms.round_id, DEVICES[0])
        receipt = await send(fleet, first.terms.round_id, DEVICES[0], body_of(first))
        assert receipt.accepted == 1

    play(fleet, scenario)


def test_a_publisher_that_fails_fails_the_round_and_not_the_server(tmp_path: Path) -> None:
    def broken(current: bytes, tensors: object, version: int) -> bytes:
        raise ValueError("no converter")

    fleet = make_fleet(tmp_path / "server", broken)

    async def scenario(coordinator: Coordinator) -> None:
        for offer in await offers(coordinator, fleet.server_key.verify_key.raw):
            await send(fleet, offer.terms.round_id, offer.device_id, body_of(offer))
        while not any(row.phase == "failed" for row in fleet.database.rounds()):
            await asyncio.sleep(0.01)
        assert "no converter" in fleet.database.rounds()[0].failure
        assert coordinator.model.version == 1

    play(fleet, scenario)


def test_a_device_that_hangs_up_no_longer_counts_as_there(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "server")

    async def scenario(coordinator: Coordinator) -> None:
        gone = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(coordinator.wait_for_work(DEVICES[0], 1, 10, gone))
        await asyncio.sleep(0.05)
        assert coordinator.present == 1
        gone.set_result(None)
        await waiting
        assert coordinator.present == 0

    play(fleet, scenario)


def test_a_device_that_waits_is_answered_in_time(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "server")

    async def scenario(coordinator: Coordinator) -> None:
        begin = time.monotonic()
        reply = await ask(coordinator, DEVICES[0], 0.3)
        assert reply.offer is None
        assert 0.25 <= time.monotonic() - begin < 3

    play(fleet, scenario)


def test_a_culprit_sits_out_as_many_rounds_as_the_plan_says(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "server")
    liars = {number: f"{number:032x}" for number in (1, 5, 24)}
    for number, liar in liars.items():
        row = RoundRow(f"{number:032x}", number, 1, "failed", 1.0, closed_at=2.0, culprits=(liar,))
        fleet.database.save_round(row)

    async def scenario(coordinator: Coordinator) -> None:
        while coordinator.round is None:
            await asyncio.sleep(0.005)
        assert coordinator.round.number == 25
        assert PLAN.quarantine_rounds == 20
        assert coordinator._running is not None
        assert coordinator._running.quarantined == {liars[5], liars[24]}

    play(fleet, scenario)
