"""Which versions of the model were published, and by which round."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from emberfleet.core.messages import ModelInfo
from emberfleet.server.storage.connections import Connections
from emberfleet.server.storage.tables import models

_MODEL: Final = sa.select(models).where(models.c.version == sa.bindparam("version"))
_LATEST: Final = sa.select(models).order_by(models.c.version.desc()).limit(1)


class ModelTables(Connections):
    """Published models."""

    def add_model(self, model: ModelInfo, now: float) -> None:
        """Write down a model that did not come from a round."""
        with self._transaction() as connection:
            connection.execute(sa.insert(models).values(**model.to_json(), published_at=now))

    def latest_model(self) -> ModelInfo | None:
        """The newest model, or None before the first."""
        with self._transaction(flushed=False) as connection:
            row = connection.execute(_LATEST).first()
        return None if row is None else ModelInfo(row.version, row.digest, row.size_bytes)

    def model(self, version: int) -> ModelInfo | None:
        """A model by its version."""
        with self._transaction(flushed=False) as connection:
            row = connection.execute(_MODEL, {"version": version}).first()
        return None if row is None else ModelInfo(row.version, row.digest, row.size_bytes)
