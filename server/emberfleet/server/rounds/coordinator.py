"""Runs the rounds: admits what devices send, stores it, tells them what follows, and keeps time.

One event loop owns everything here, so no transition meets another half way. What a message or a moment
makes of a round is said by pure functions (`steps.py`); what is stored, and when, by the journal. What takes
long (opening an update, unmasking, applying and signing a model) runs in a worker thread on values that
nobody else holds, and its result comes back into the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import EmberError, StorageError
from emberfleet.core.messages import ModelInfo, Reason, Receipt, RefusedError, WorkReply
from emberfleet.core.offers import Mode
from emberfleet.core.sealing import SealingKey
from emberfleet.core.signing import SigningKey
from emberfleet.server.registry.models import ModelRegistry
from emberfleet.server.registry.publisher import Evaluator, Publisher
from emberfleet.server.rounds.answering import FROM, Answer
from emberfleet.server.rounds.collecting import check_upload, hear_device
from emberfleet.server.rounds.concluding import Conclusion, Evaluations, published_now
from emberfleet.server.rounds.failed import fail_round
from emberfleet.server.rounds.journal import Journal
from emberfleet.server.rounds.offering import make_offer, make_terms, offered_in
from emberfleet.server.rounds.opening import open_round, start_if_ready
from emberfleet.server.rounds.pacing import Pace, round_seconds
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.presence import Presence
from emberfleet.server.rounds.rebuilding import row_of
from emberfleet.server.rounds.receiving import open_upload, upload_limit
from emberfleet.server.rounds.resuming import take_up
from emberfleet.server.rounds.running import Running
from emberfleet.server.rounds.state import OVER, Phase, Round, check_member, late, reached
from emberfleet.server.rounds.steps import STEPS, Kind, accept, advance, due_at
from emberfleet.server.storage.database import Database, StoredMessage
from emberfleet.server.storage.files import ServerFolder

log = logging.getLogger(__name__)
LONGEST_SLEEP_S: Final = 0.25
"""Silence and clocks are looked at so often; no message waits for it."""
PAUSE_AFTER_FAILURE_S: Final = 1.0
NONCES_KEPT_S: Final = 900.0


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
        self._key, self._plan, self._clock = key, plan, clock
        self._rounds = rounds
        self._evaluations = None if evaluator is None else Evaluations(database, evaluator)
        self._presence = Presence()
        self._pace = Pace(plan)
        self._current = published_now(registry)
        self._conclusion = Conclusion(database, folder, registry, publisher, clock)
        self._running: Running | None = None
        self._changed: asyncio.Future[None]
        self._wake = asyncio.Event()
        self._finished = 0
        self._next_nonce_sweep = 0.0

    @property
    def model(self) -> ModelInfo:
        """The published model."""
        return self._current.info

    @property
    def round(self) -> Round | None:
        """The round at hand, if any, as stored."""
        return None if self._running is None else self._running.round

    @property
    def present(self) -> int:
        """How many devices could be drawn now."""
        return len(self._presence.present(self.model.version, self._clock(), self._plan.presence_s))

    def prepare(self) -> None:
        """Take up the round that a stopped server left; call once, inside the loop, before serving."""
        self._changed = asyncio.get_running_loop().create_future()
        left = take_up(self._database, self._folder, self.model, self._plan, self._clock())
        if left is not None:
            log.info("round %d goes on in phase %s", left.round.number, left.round.phase)
            self._run(left.round, left.key, left.messages)

    async def run(self) -> None:
        """Open, run and close rounds until cancelled; `prepare` comes first."""
        while True:
            self._wake.clear()
            try:
                await self._step()
            except StorageError as error:
                log.error("the rounds wait: %s", error)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
            except EmberError as error:
                log.error("round failed: %s", error)
                self._fail(str(error))
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
            # Not wait_for: in Python 3.11 it loses a cancellation that meets the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._until_due()):
                    await self._wake.wait()

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
            told = reply.offer is not None or model_version < reply.model.version or reply.retry_after_s
            if told or left <= 0:
                return reply
            await asyncio.wait((changed, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                self._presence.forget(device_id)
                return reply

    def body_limit(self, round_id: str, device_id: str, kind: Kind) -> int:
        """The largest message of a kind, before any of it is read.

        Raises:
            RefusedError: OTHER_ROUND, LATE or NOT_IN_COHORT.
        """
        running = self._round_of(round_id, device_id)
        check_member(running.round, device_id)
        return STEPS[kind].limit(running.round)

    async def accept(self, round_id: str, device_id: str, kind: Kind, body: bytes) -> None:
        """Take a message, and return when it is stored; the same one again changes nothing.

        Raises:
            RefusedError, FormatError, SignatureError: Nothing of it counts.
            StorageError: It could not be stored, and does not count.
        """
        digest = sha256_hex(body)
        at_hand = self._running is not None and self._running.round.id == round_id
        if not at_hand and self._database.message_digest(round_id, device_id, kind) == digest:
            return
        journal = self._round_of(round_id, device_id).journal
        if journal.digest_of(kind, device_id) != digest:
            now = self._clock()
            after = advance(accept(journal.head, kind, device_id, body, now), now)
            journal.put_message(after, kind, device_id, digest, body, now)
        await journal.stored()

    async def answer(
        self, round_id: str, device_id: str, what: Answer, wait_s: float, gone: asyncio.Future[None]
    ) -> bytes | None:
        """What the round tells a device, as soon as it is there; None when it is not after `wait_s`.

        Raises:
            RefusedError: OTHER_ROUND, NOT_IN_COHORT; LATE: the round is over, or goes on without it.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            changed = self._changed
            running = self._round_of(round_id, device_id)
            check_member(running.round, device_id)
            if running.round.mode is Mode.SEALED:
                raise late(running.round, "a sealed round has nothing to tell")
            if reached(running.round, FROM[what]):
                return running.answers.find(running.round, device_id, what)
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or gone.done():
                return None
            await asyncio.wait((changed, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def upload_limit(self, round_id: str, device_id: str) -> int:
        """The largest update this device may send now, before any of it is read.

        Raises:
            RefusedError: OTHER_ROUND, NOT_IN_COHORT or LATE. An update that counts already passes,
                so that a lost answer can be asked for again.
        """
        running = self._round_of(round_id, device_id)
        if device_id not in running.journal.head.accepted:
            check_upload(running.journal.head, device_id, self._clock())
        return upload_limit(running.round)

    async def accept_upload(self, round_id: str, device_id: str, path: Path) -> Receipt:
        """Check a finished upload and count it; the same one again gives the same receipt.

        Raises:
            RefusedError, FormatError, ShapeError, SealError: Nothing of the update counts.
            StorageError: It could not be stored, and does not count.
        """
        running = self._round_of(round_id, device_id)
        journal = running.journal
        upload = await asyncio.to_thread(open_upload, path, device_id, journal.head, running.key)
        if journal.digest_of(Kind.UPDATE, device_id) != upload.digest:
            check_upload(journal.head, device_id, self._clock())
            await asyncio.to_thread(upload.keep, device_id, self._folder.values(round_id))
            now = self._clock()
            after = advance(accept(journal.head, Kind.UPDATE, device_id, upload.header, now), now)
            journal.put_message(after, Kind.UPDATE, device_id, upload.digest, upload.header, now)
        await journal.stored()
        return Receipt(round_id, len(journal.round.accepted))

    def retry_late_s(self) -> float | None:
        """When a device that was late should ask for work again; None for soon."""
        return self._pace.retry_late_s(self._clock()) or None

    def check_free(self, device_id: str) -> None:
        """Raise `RefusedError` (IN_ROUND) while a device takes part in the round at hand."""
        if self._running is None:
            return
        round_ = self._running.journal.head
        if device_id in round_.cohort and round_.phase not in OVER:
            raise RefusedError(
                Reason.IN_ROUND, "this device takes part in a round", "Try again when the round is over."
            )

    def hear(self, round_id: str, device_id: str) -> None:
        """A device of the cohort is still at work."""
        journal = self._round_of(round_id, device_id).journal
        journal.hear(hear_device(journal.head, device_id, self._clock()))

    async def decline(self, round_id: str, device_id: str) -> None:
        """A device of the cohort gives up."""
        await self.accept(round_id, device_id, Kind.DECLINE, b"")

    def _until_due(self) -> float:
        due = None if self._running is None else due_at(self._running.journal.head)
        return LONGEST_SLEEP_S if due is None else min(LONGEST_SLEEP_S, max(0.005, due - self._clock()))

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
        journal = running.journal
        after = journal.head
        if after.phase is Phase.OPEN:
            present = self._presence.present(self.model.version, now, self._plan.presence_s)
            after = start_if_ready(after, present - self._database.revoked(), now, running.quarantined)
        after = advance(after, now)
        if after is not journal.head:
            journal.put(after)
        journal.flush()
        if running.round.phase in (Phase.APPLY, Phase.PUBLISH):
            await self._apply(running)

    def _follow_registry(self) -> None:
        """Take over what the command line published or rolled out, and tell those who wait."""
        if self._registry.behind:
            self._registry.bring_in_line(self._clock())
        if not self._registry.reload():
            return
        latest = self._registry.latest()
        if latest.version != self.model.version:
            self._fail(f"model {latest.version} was published meanwhile")
            self._current = published_now(self._registry)
        self._notify()

    def _open(self, now: float) -> None:
        plan, last = self._plan, self._database.rounds(last=max(1, self._plan.quarantine_rounds))
        number = last[-1].number + 1 if last else 1
        self._pace.round_s = round_seconds((row.started_at, row.closed_at) for row in last)
        key = SealingKey.generate() if plan.mode is Mode.SEALED else None
        terms = make_terms(secrets.token_hex(16), number, self._current, plan, key)
        self._folder.start_round(terms.round_id, None if key is None else key.private())
        round_ = open_round(terms, plan, now)
        try:
            self._database.save_round(row_of(round_))
        except StorageError:
            self._folder.end_round(round_.id)
            raise
        self._run(round_, key)

    def _run(self, round_: Round, key: SealingKey | None, messages: Sequence[StoredMessage] = ()) -> None:
        journal = Journal(self._database, round_, self._clock, self._moved, messages)
        last = self._database.rounds(last=max(1, round_.plan.quarantine_rounds))
        since = round_.number - round_.plan.quarantine_rounds
        culprits = frozenset(name for row in last if row.number >= since for name in row.culprits)
        self._running = Running(journal, key, culprits)

    def _moved(self, before: Round, after: Round) -> None:
        """Another phase of the round at hand was stored."""
        log.info("round %d: %s, after %s", after.number, after.phase, before.phase)
        if after.phase is Phase.FAILED:
            log.warning("round %d failed: %s", after.number, after.failure)
            self._forget(after)
        self._notify()
        self._wake.set()

    async def _apply(self, running: Running) -> None:
        """Make the next model, store and offer it; where that fails for good, the round has failed."""
        published = await self._conclusion.conclude(running.journal, self._current)
        if published is None:
            return
        self._current = published
        self._finished += 1
        done = running.round
        log.info("round %d: model %d from %d updates", done.number, self.model.version, len(done.accepted))
        self._forget(done)
        self._notify()
        self._wake.set()
        if self._evaluations is not None:
            self._evaluations.begin(done.id, published.data)

    def _fail(self, why: str) -> None:
        running = self._running
        if running is not None and running.journal.head.phase not in OVER:
            running.journal.put(fail_round(running.journal.head, why))
            running.journal.flush()

    def _forget(self, round_: Round) -> None:
        self._running = None
        self._folder.end_round(round_.id)

    def _work_for(self, device_id: str, model_version: int) -> WorkReply:
        """What there is for a device right now; asking makes it present, having work makes it busy."""
        running, now = self._running, self._clock()
        if (
            running is not None
            and running.round.phase is offered_in(running.round)
            and model_version == self.model.version
        ):
            with contextlib.suppress(RefusedError):
                running.journal.hear(hear_device(running.journal.head, device_id, now))
                self._presence.forget(device_id)
                return WorkReply(self.model, make_offer(running.round, device_id, now).sign(self._key))
        if self._presence.note(device_id, model_version, now):
            self._wake.set()
        away_s = self._pace.retry_after_s(device_id, self._presence.waiting(model_version), now)
        if away_s:
            self._presence.forget(device_id)
        return WorkReply(self._registry.release_for(device_id), retry_after_s=away_s)

    def _round_of(self, round_id: str, device_id: str) -> Running:
        running = self._running
        if running is not None and running.round.id == round_id:
            return running
        row = self._database.round(round_id)
        if row is not None and row.phase in OVER and device_id in row.cohort:
            raise RefusedError(Reason.LATE, f"round {row.number} is over", "Ask for work again.")
        raise RefusedError(
            Reason.OTHER_ROUND,
            "this is not of the round at hand",
            "Ask for work and send that round's update.",
        )

    def _notify(self) -> None:
        self._changed.set_result(None)
        self._changed = asyncio.get_running_loop().create_future()
