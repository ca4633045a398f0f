"""The round that a stopped server left: which one goes on, and what is written down of the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from emberfleet.core.errors import EmberError, RoundError, StorageError
from emberfleet.core.messages import ModelInfo
from emberfleet.core.offers import Mode
from emberfleet.core.sealing import SealingKey
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.rebuilding import rebuild
from emberfleet.server.rounds.state import Phase, Round
from emberfleet.server.storage.database import Database, RoundRow, StoredMessage
from emberfleet.server.storage.files import ServerFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """A round that goes on, with all that was stored of it."""

    round: Round
    key: SealingKey | None
    messages: Sequence[StoredMessage]


def take_up(
    database: Database, folder: ServerFolder, model: ModelInfo, plan: RoundPlan, now: float
) -> Left | None:
    """The newest round that is not over, if it can go on; all others are written down as failed.

    Args:
        database: Where rounds are stored.
        folder: Where their keys and uploads lie; what belongs to no round that goes on is removed.
        model: The published one.
        plan: Of every round to come: an open round with other settings is opened anew.
        now: Seconds since 1970.
    """
    found = None
    for row in reversed(database.unfinished_rounds()):
        try:
            if found is not None:
                raise RoundError("a newer round was opened")
            found = _go_on(row, database.messages(row.id), folder, model, plan, now)
        except EmberError as error:
            log.warning("round %d does not go on: %s", row.number, error)
            _write_down(database, replace(row, phase=Phase.FAILED, failure=str(error), closed_at=now))
    for round_id in folder.unfinished_rounds():
        if found is None or round_id != found.round.id:
            folder.end_round(round_id)
    return found


def _go_on(
    row: RoundRow,
    messages: Sequence[StoredMessage],
    folder: ServerFolder,
    model: ModelInfo,
    plan: RoundPlan,
    now: float,
) -> Left:
    round_ = rebuild(row, messages, now)
    if round_.terms.model != model:
        raise RoundError(f"model {model.version} was published meanwhile")
    if round_.phase is Phase.OPEN:
        if round_.plan != plan:
            raise RoundError("the settings were changed before its devices were drawn")
        round_ = replace(round_, opened_at=now)
    folder.start_round(row.id, None)
    key = SealingKey(folder.read_round_key(row.id)) if round_.mode is Mode.SEALED else None
    return Left(round_, key, messages)


def _write_down(database: Database, row: RoundRow) -> None:
    try:
        database.save_progress(row.id, (), row, over=True)
    except StorageError as error:
        log.error("the end of round %d could not be stored: %s", row.number, error)
