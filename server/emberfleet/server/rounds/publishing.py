"""Phases apply and publish: the next model is made of what the devices sent, signed and stored.

Nothing here changes the round or the fleet before the one transaction that ends both phases
(`ModelRegistry.add`). A server that is killed earlier makes the same model again from what is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from emberfleet.core.arrays import Float32, Tensors
from emberfleet.core.errors import EmberError, RoundError
from emberfleet.core.messages import ModelInfo, UpdateHeader
from emberfleet.core.offers import Mode
from emberfleet.server.aggregate.stored import UpdateFile
from emberfleet.server.registry.models import ModelRegistry
from emberfleet.server.registry.publisher import OpenedModel, Publisher
from emberfleet.server.rounds.applying import aggregate_sealed, apply_mean
from emberfleet.server.rounds.state import Phase, Round, enter, require
from emberfleet.server.rounds.unmasking import recover_secrets, sum_uploads
from emberfleet.server.storage.database import StoredMessage
from emberfleet.server.storage.files import ServerFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NextModel:
    """What came of a round, before it is signed.

    Attributes:
        state: The server optimizer's, for the round after.
        culprits: Devices that sent what does not fit.
    """

    tensors: dict[str, Float32]
    state: dict[str, Float32]
    culprits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A bundle as devices will get it, opened again as they will open it."""

    info: ModelInfo
    data: bytes
    opened: OpenedModel


def make_next(round_: Round, model: Tensors, folder: ServerFolder) -> NextModel:
    """Phase apply: the sum of the updates, whichever way it was protected, onto the model.

    Raises:
        UnfitSharesError: The shares of a secure round do not fit together.
        RoundError, StorageError: The sum cannot be made, or is not what it can be.
    """
    require(round_, Phase.APPLY)
    update, culprits = round_.terms.update, round_.culprits
    if round_.mode is Mode.SEALED:
        values = UpdateFile(folder.values(round_.id), round_.cohort, update)
        mean = aggregate_sealed(round_, values, update).mean
    else:
        secrets = recover_secrets(round_)
        culprits = tuple(sorted({*culprits, *secrets.culprits}))
        mean = sum_uploads(round_, lambda device: folder.upload(round_.id, device), secrets).mean
    state = folder.read_optimizer(round_.model_version)
    _, tensors, kept = apply_mean(round_, model, mean, update, state)
    return NextModel(tensors, kept, culprits)


def start_publishing(round_: Round, culprits: tuple[str, ...], now: float) -> Round:
    """The round in phase publish."""
    require(round_, Phase.APPLY)
    return enter(replace(round_, culprits=culprits), Phase.PUBLISH, now)


def sign_next(
    made: NextModel, current: PublishedModel, publisher: Publisher, registry: ModelRegistry
) -> PublishedModel:
    """Phase publish: the bundle of the next version.

    Raises:
        EmberError: The publisher failed, or made a bundle that devices would refuse.
    """
    version = current.info.version + 1
    try:
        data = publisher(current.data, made.tensors, version)
    except EmberError:
        raise
    except Exception as error:
        log.exception("the publisher failed")
        raise RoundError(f"publish: {type(error).__name__}: {error}") from error
    info, opened = registry.check(data, version)
    return PublishedModel(info, data, opened)


def finish_round(round_: Round, now: float) -> Round:
    """The round with its model."""
    require(round_, Phase.PUBLISH)
    return enter(round_, Phase.DONE, now)


def mean_metrics(updates: Sequence[StoredMessage]) -> dict[str, float]:
    """Means of the devices' own measurements in a sealed round, weighted by samples."""
    sums: dict[str, tuple[float, int]] = {}
    for header in (UpdateHeader.decode(message.body) for message in updates):
        for name, value in header.metrics.items():
            total, weight = sums.get(name, (0.0, 0))
            sums[name] = (total + header.sample_count * value, weight + header.sample_count)
    return {name: total / weight for name, (total, weight) in sums.items()}
