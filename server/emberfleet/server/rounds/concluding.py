"""The end of a round that has all it needs: apply and publish, in worker threads, then one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from emberfleet.core.errors import EmberError
from emberfleet.core.offers import Mode
from emberfleet.server.registry.models import ModelRegistry
from emberfleet.server.registry.publisher import Evaluator, Publisher
from emberfleet.server.rounds.disclosing import more_may_come, wait_for_more
from emberfleet.server.rounds.failed import fail_round
from emberfleet.server.rounds.journal import Journal
from emberfleet.server.rounds.publishing import (
    PublishedModel,
    finish_round,
    make_next,
    mean_metrics,
    sign_next,
    start_publishing,
)
from emberfleet.server.rounds.rebuilding import final_row
from emberfleet.server.rounds.state import Phase, Round
from emberfleet.server.rounds.steps import Kind
from emberfleet.server.rounds.unmasking import UnfitSharesError
from emberfleet.server.storage.database import Database
from emberfleet.server.storage.files import ServerFolder

log = logging.getLogger(__name__)


def published_now(registry: ModelRegistry) -> PublishedModel:
    """The published model.

    Raises:
        ConfigError: None was imported.
    """
    info = registry.latest()
    data, opened = registry.load(info)
    return PublishedModel(info, data, opened)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """Where a round's model comes from and goes to."""

    database: Database
    folder: ServerFolder
    registry: ModelRegistry
    publisher: Publisher
    clock: Callable[[], float]

    async def conclude(self, journal: Journal, current: PublishedModel) -> PublishedModel | None:
        """Make the next model and store it with the round's end.

        Returns:
            The model; None where the shares of a secure round did not fit together: then the round waits
            for more of them, or has failed.

        Raises:
            StorageError: The disk is full or broken; calling it again makes the same model.
            EmberError: No model can come of this round.
        """
        again = replace(journal.round, phase=Phase.APPLY)
        try:
            made = await asyncio.to_thread(make_next, again, current.opened.tensors, self.folder)
        except UnfitSharesError as error:
            journal.put(self._without_secrets(journal.head, error))
            journal.flush()
            return None
        if journal.head.phase is Phase.APPLY:
            journal.put(start_publishing(journal.head, made.culprits, self.clock()))
            journal.flush()
        published = await asyncio.to_thread(sign_next, made, current, self.publisher, self.registry)
        self.folder.write_optimizer(published.info.version, made.state)
        now = self.clock()
        done = finish_round(replace(journal.round, phase=Phase.PUBLISH, culprits=made.culprits), now)
        row = replace(final_row(done, now), metrics=self._metrics(done))
        self.registry.add(published.info, published.data, row, now)
        self.folder.forget_optimizers(published.info.version)
        return published

    def _without_secrets(self, head: Round, error: UnfitSharesError) -> Round:
        if not error.hopeless and more_may_come(head, self.clock()):
            log.warning("round %d: %s; more shares are waited for", head.number, error)
            return wait_for_more(replace(head, phase=Phase.APPLY))
        return fail_round(replace(head, culprits=error.culprits), str(error))

    def _metrics(self, round_: Round) -> dict[str, float]:
        if round_.mode is Mode.SECURE:
            return {}
        stored = self.database.messages(round_.id)
        return mean_metrics([message for message in stored if message.kind == Kind.UPDATE])


class Evaluations:
    """Measures new models beside the rounds, and writes down what was found."""

    def __init__(self, database: Database, evaluator: Evaluator) -> None:
        self._database, self._evaluator = database, evaluator
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, round_id: str, data: bytes) -> None:
        """Measure the bundle that a round made; nobody waits for it."""
        task = asyncio.create_task(self._evaluate(round_id, data))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _evaluate(self, round_id: str, data: bytes) -> None:
        try:
            self._database.add_round_metrics(round_id, await asyncio.to_thread(self._evaluator, data))
        except EmberError as error:
            log.error("the new model could not be measured: %s", error)
