"""Runs the rounds: the state machine's clock, storage, keys and answers.

One event loop owns everything here, so no transition meets another half way. What takes long
(decoding an update never does; applying and signing a model may) runs in a worker thread on values
that nobody else holds, and its result comes back into the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from emberfleet.core.errors import EmberError, RoundError
from emberfleet.core.files import read_limited
from emberfleet.core.messages import (
    SEAL_INFO,
    ModelInfo,
    Reason,
    Receipt,
    RefusedError,
    UpdateHeader,
    Upload,
    WorkReply,
    max_upload_bytes,
)
from emberfleet.core.offers import RoundOffer, RoundTerms
from emberfleet.core.sealing import OVERHEAD_BYTES, SealingKey
from emberfleet.core.signing import SigningKey
from emberfleet.core.updates import UpdatePlan
from emberfleet.server.aggregate.checks import check_update
from emberfleet.server.aggregate.stored import UpdateFile
from emberfleet.server.registry.models import ModelRegistry
from emberfleet.server.registry.publisher import Evaluator, OpenedModel, Publisher
from emberfleet.server.rounds.applying import aggregate_sealed, apply_mean
from emberfleet.server.rounds.collecting import accept_update, advance, check_upload, drop_device, hear_device
from emberfleet.server.rounds.failed import fail_round
from emberfleet.server.rounds.opening import open_round, start_if_ready
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.presence import Presence
from emberfleet.server.rounds.publishing import finish_round
from emberfleet.server.rounds.state import Phase, Round
from emberfleet.server.storage.database import Database, RoundRow, StoredMessage
from emberfleet.server.storage.files import ServerFolder

log = logging.getLogger(__name__)
TICK_S: Final = 0.25
PAUSE_AFTER_FAILURE_S: Final = 1.0
NONCES_KEPT_S: Final = 900.0


@dataclass(slots=True)
class Running:
    """The round at hand with what its state machine does not hold: its key, and the plan of its updates."""

    round: Round
    key: SealingKey
    update: UpdatePlan


class Coordinator:
    """The rounds of one server."""

    def __init__(
        self,
        *,
        database: Database,
        folder: ServerFolder,
        registry: ModelRegistry,
        publisher: Publisher,
        key: SigningKey,
        plan: RoundPlan,
        clock: Callable[[], float],
        rounds: int = 0,
        evaluator: Evaluator | None = None,
    ) -> None:
        """Prepare to run.

        Args:
            database: Where rounds are written down.
            folder: Where bundles and updates lie.
            registry: The published models.
            publisher: Makes the next bundle.
            key: Signs offers.
            plan: Of every round.
            clock: Seconds since 1970.
            rounds: Finished rounds after which no more are opened; 0 for no end.
            evaluator: Measures each new bundle beside the rounds, when given.
        """
        self._database, self._folder, self._registry = database, folder, registry
        self._publisher, self._key, self._plan, self._clock = publisher, key, plan, clock
        self._rounds, self._evaluator = rounds, evaluator
        self._presence = Presence()
        self._model = registry.latest()
        self._bundle, self._opened = registry.load(self._model)
        self._running: Running | None = None
        self._changed: asyncio.Future[None]
        self._wake = asyncio.Event()
        self._finished = 0
        self._next_nonce_sweep = 0.0
        self._background: set[asyncio.Task[None]] = set()

    @property
    def model(self) -> ModelInfo:
        """The published model."""
        return self._model

    @property
    def round(self) -> Round | None:
        """The round at hand, if any."""
        return None if self._running is None else self._running.round

    @property
    def present(self) -> int:
        """How many devices could be drawn now."""
        return len(self._presence.present(self._model.version, self._clock(), self._plan.presence_s))

    def prepare(self) -> None:
        """Tidy up after a server that was stopped; call once, inside the loop, before serving."""
        self._changed = asyncio.get_running_loop().create_future()
        self._close_interrupted()

    async def run(self) -> None:
        """Open, run and close rounds until cancelled; `prepare` comes first."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self._step()
                except EmberError as error:
                    log.error("round failed: %s", error)
                    self._fail(str(error))
                    await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
                # Not wait_for: in Python 3.11 it loses a cancellation that meets the event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._wake.wait()
        finally:
            if self._running is not None:
                self._fail("the server was stopped")

    async def wait_for_work(
        self, device_id: str, model_version: int, wait_s: float, gone: asyncio.Future[None]
    ) -> WorkReply:
        """Answer a device at once when there is something for it, or else after `wait_s`.

        A device whose connection ends while it waits (`gone`) no longer counts as there.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            changed = self._changed
            reply = self._work_for(device_id, model_version)
            left = deadline - asyncio.get_running_loop().time()
            if reply.offer is not None or model_version < reply.model.version or left <= 0:
                return reply
            await asyncio.wait((changed, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                self._presence.forget(device_id)
                return reply

    def upload_limit(self, round_id: str, device_id: str) -> int:
        """The largest body this device may send now, before any of it is read.

        Raises:
            RefusedError: OTHER_ROUND, NOT_IN_COHORT or LATE. An update that counts already passes,
                so that a lost answer can be asked for again.
        """
        running = self._round_of(round_id, device_id)
        try:
            check_upload(running.round, device_id, self._clock())
        except RefusedError as error:
            if error.reason is not Reason.ALREADY_ACCEPTED:
                raise
        return max_upload_bytes(running.update, OVERHEAD_BYTES)

    def accept_upload(self, round_id: str, device_id: str, path: Path) -> Receipt:
        """Check a finished upload and keep its values; the same body again gives the same receipt.

        Raises:
            RefusedError, FormatError, ShapeError, SealError: Nothing of the update counts.
        """
        running = self._round_of(round_id, device_id)
        body = read_limited(path, max_upload_bytes(running.update, OVERHEAD_BYTES))
        digest = hashlib.sha256(body).hexdigest()
        if self._database.message_digest(round_id, device_id, "update") == digest:
            return Receipt(round_id, len(running.round.accepted))
        now = self._clock()
        check_upload(running.round, device_id, now)
        upload = Upload.decode(body)
        header = upload.header
        if header.round_id != round_id:
            raise _other_round()
        if header.device_id != device_id:
            raise RefusedError(
                Reason.MALFORMED, "the update names another device", "Send this device's own update."
            )
        if header.model_version != running.round.model_version:
            raise RefusedError(
                Reason.OTHER_MODEL,
                f"the update is for model {header.model_version}, expected {running.round.model_version}",
                "Fetch the published model and ask for work again.",
            )
        payload = running.key.open(upload.sealed, SEAL_INFO, upload.associated_data)
        plan = running.round.plan
        values = check_update(
            payload, header, running.update, norm_bound=plan.norm_bound, weight_bound=plan.weight_bound
        )
        after = accept_update(running.round, device_id, header.sample_count, now)
        self._values_of(running).write(device_id, values)
        stored = StoredMessage(device_id, "update", len(after.accepted), digest, upload.associated_data, now)
        self._database.save_progress(round_id, [stored], None)
        running.round = after
        self._wake.set()
        return Receipt(round_id, len(after.accepted))

    def hear(self, round_id: str, device_id: str) -> None:
        """A device of the cohort is still training."""
        running = self._round_of(round_id, device_id)
        running.round = hear_device(running.round, device_id, self._clock())

    def decline(self, round_id: str, device_id: str) -> None:
        """A device of the cohort gives up."""
        running = self._round_of(round_id, device_id)
        running.round = drop_device(running.round, device_id, self._clock())
        self._wake.set()

    async def _step(self) -> None:
        now = self._clock()
        self._follow_registry()
        if now >= self._next_nonce_sweep:
            self._database.forget_nonces(now - NONCES_KEPT_S)
            self._next_nonce_sweep = now + NONCES_KEPT_S / 3
        if self._running is None:
            if self._rounds and self._finished >= self._rounds:
                return
            self._open(now)
        running = self._running
        assert running is not None
        if running.round.phase is Phase.OPEN:
            present = self._presence.present(self._model.version, now, self._plan.presence_s)
            running.round = start_if_ready(running.round, present, now)
            if running.round.phase is Phase.COLLECT:
                log.info("round %d: %d devices drawn", running.round.number, len(running.round.cohort))
                self._database.save_round(self._row(running.round))
                self._notify()
        if running.round.phase is Phase.COLLECT:
            running.round = advance(running.round, now)
        if running.round.phase is Phase.APPLY:
            await self._apply_and_publish(running)
        elif running.round.phase is Phase.FAILED:
            self._close(running.round)

    def _follow_registry(self) -> None:
        """Take over what the command line published or rolled out, and tell those who wait."""
        if not self._registry.reload():
            return
        latest = self._registry.latest()
        if latest.version != self._model.version:
            self._fail(f"model {latest.version} was published meanwhile")
            self._model = latest
            self._bundle, self._opened = self._registry.load(latest)
        self._notify()

    def _open(self, now: float) -> None:
        last = self._database.rounds(last=1)
        number = last[-1].number + 1 if last else 1
        update = self._plan.update_plan(self._opened.tensors, self._opened.scopes)
        round_ = open_round(secrets.token_hex(16), number, self._model.version, self._plan, now)
        key = SealingKey.generate()
        self._folder.start_round(round_.id, key.private())
        self._database.save_round(self._row(round_))
        self._running = Running(round_, key, update)

    async def _apply_and_publish(self, running: Running) -> None:
        """Make the next model in a thread, then store and offer it."""
        version = self._model.version + 1

        def make() -> tuple[Round, bytes, ModelInfo, OpenedModel]:
            found = aggregate_sealed(running.round, self._values_of(running), running.update)
            round_, tensors, velocity = apply_mean(
                running.round,
                self._opened.tensors,
                found.mean,
                running.update,
                self._folder.read_velocity(),
            )
            try:
                data = self._publisher(self._bundle, tensors, version)
            except Exception as error:
                log.exception("the publisher failed")
                raise RoundError(f"publish: {type(error).__name__}: {error}") from error
            info, opened = self._registry.check(data, version)
            self._folder.write_velocity(velocity)
            return round_, data, info, opened

        published, data, info, opened = await asyncio.to_thread(make)
        done = finish_round(published)
        metrics = mean_metrics(self._database.messages(done.id))
        now = self._clock()
        self._registry.add(info, data, replace(self._row(done), metrics=metrics, closed_at=now), now)
        self._folder.end_round(done.id)
        self._model, self._bundle, self._opened = info, data, opened
        self._running = None
        self._finished += 1
        log.info("round %d: model %d from %d updates", done.number, info.version, len(done.accepted))
        self._notify()
        self._wake.set()
        if self._evaluator is not None:
            task = asyncio.create_task(self._evaluate(self._evaluator, done.id, data))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def _values_of(self, running: Running) -> UpdateFile:
        path = self._folder.values(running.round.id)
        return UpdateFile(path, running.round.cohort, running.update)

    async def _evaluate(self, evaluator: Evaluator, round_id: str, data: bytes) -> None:
        try:
            self._database.add_round_metrics(round_id, await asyncio.to_thread(evaluator, data))
        except EmberError as error:
            log.error("the new model could not be measured: %s", error)

    def _fail(self, why: str) -> None:
        if self._running is not None and self._running.round.phase not in (Phase.DONE, Phase.FAILED):
            self._close(fail_round(self._running.round, why))

    def _close(self, failed: Round) -> None:
        log.warning("round %d failed: %s", failed.number, failed.failure)
        self._running = None
        with contextlib.suppress(EmberError):
            self._database.save_round(replace(self._row(failed), closed_at=self._clock()))
        self._folder.end_round(failed.id)
        self._notify()

    def _close_interrupted(self) -> None:
        """Write down as failed what a stopped server left behind."""
        for round_id in self._folder.unfinished_rounds():
            row = self._database.round(round_id)
            if row is not None and row.phase not in (Phase.DONE, Phase.FAILED):
                now = self._clock()
                self._database.save_round(
                    replace(row, phase=Phase.FAILED, failure="the server was restarted", closed_at=now)
                )
            self._folder.end_round(round_id)

    def _work_for(self, device_id: str, model_version: int) -> WorkReply:
        """What there is for a device right now; asking makes it present, having work makes it busy."""
        running, now = self._running, self._clock()
        if (
            running is not None
            and running.round.phase is Phase.COLLECT
            and model_version == self._model.version
        ):
            with contextlib.suppress(RefusedError):
                running.round = hear_device(running.round, device_id, now)
                self._presence.forget(device_id)
                return WorkReply(self._model, self._offer(running, device_id, now))
        if self._presence.note(device_id, model_version, now):
            self._wake.set()
        return WorkReply(self._registry.release_for(device_id))

    def _offer(self, running: Running, device_id: str, now: float) -> bytes:
        round_ = running.round
        terms = RoundTerms(
            round_id=round_.id,
            number=round_.number,
            model=self._model,
            round_key=running.key.public,
            update=running.update,
            training=round_.plan.training_of(round_.number),
            seed=round_.plan.seed * 1_000_003 % (1 << 40) + round_.number,
        )
        left_s = max(0.0, round_.deadline_at - now)
        return RoundOffer(terms, device_id, round_.plan.lease_s, left_s).sign(self._key)

    def _round_of(self, round_id: str, device_id: str) -> Running:
        running = self._running
        if running is not None and running.round.id == round_id:
            return running
        row = self._database.round(round_id)
        if row is not None and row.phase in (Phase.DONE, Phase.FAILED) and device_id in row.cohort:
            raise RefusedError(Reason.LATE, f"round {row.number} is over", "Ask for work again.")
        raise _other_round()

    def _row(self, round_: Round) -> RoundRow:
        return RoundRow(
            id=round_.id,
            number=round_.number,
            model_version=round_.model_version,
            phase=round_.phase.value,
            opened_at=round_.opened_at,
            started_at=round_.started_at,
            closed_at=None,
            cohort=round_.cohort,
            dropped=round_.missing
            if round_.phase in (Phase.DONE, Phase.FAILED)
            else tuple(sorted(round_.dropped)),
            accepted=len(round_.accepted),
            failure=round_.failure,
            metrics={},
        )

    def _notify(self) -> None:
        self._changed.set_result(None)
        self._changed = asyncio.get_running_loop().create_future()


def _other_round() -> RefusedError:
    return RefusedError(
        Reason.OTHER_ROUND,
        "the update is not of the round at hand",
        "Ask for work and send that round's update.",
    )


def mean_metrics(updates: Sequence[StoredMessage]) -> dict[str, float]:
    """Means of the devices' own measurements in a round, weighted by samples."""
    sums: dict[str, tuple[float, int]] = {}
    for header in (UpdateHeader.decode(message.body) for message in updates):
        for name, value in header.metrics.items():
            total, weight = sums.get(name, (0.0, 0))
            sums[name] = (total + header.sample_count * value, weight + header.sample_count)
    return {name: total / weight for name, (total, weight) in sums.items()}
