"""How far each model is rolled out, and how it did on the devices that told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from emberfleet.core.messages import ModelReport
from emberfleet.core.releases import Release
from emberfleet.server.storage.connections import Connections
from emberfleet.server.storage.tables import metadata, models, rounds

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("percent", sa.Integer, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False),
    sa.Column("halted_at", sa.Float),
)
reports = sa.Table(
    "reports",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("device_id", sa.String(32), primary_key=True),
    sa.Column("accuracy", sa.Float, nullable=False),
    sa.Column("accuracy_before", sa.Float, nullable=False),
    sa.Column("samples", sa.Integer, nullable=False),
    sa.Column("kept", sa.Boolean, nullable=False),
    sa.Column("reported_at", sa.Float, nullable=False),
)

_COUNTS: Final = (
    sa.select(
        reports.c.version,
        sa.func.count().label("reports"),
        sa.func.sum(sa.case((reports.c.kept, 0), else_=1)).label("bad"),
    )
    .group_by(reports.c.version)
    .subquery()
)
_RELEASES: Final = (
    sa.select(
        models,
        rollouts.c.percent,
        rollouts.c.halted_at,
        rounds.c.number,
        _COUNTS.c.reports,
        _COUNTS.c.bad,
    )
    .select_from(models)
    .outerjoin(rollouts, rollouts.c.version == models.c.version)
    .outerjoin(rounds, rounds.c.id == models.c.round_id)
    .outerjoin(_COUNTS, _COUNTS.c.version == models.c.version)
)


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A published model with its rollout and the devices' reports.

    Attributes:
        reports: How many devices have compared it with what served before.
        bad: How many of them went back.
        halted: Whether the server has stopped its rollout because of them.
    """

    release: Release
    published_at: float
    reports: int
    bad: int
    halted: bool

    def to_json(self) -> dict[str, Any]:
        """For programs; no device is named."""
        return {
            "version": self.release.version,
            "size_bytes": self.release.size_bytes,
            "from_round": self.release.from_round,
            "published_at": self.published_at,
            "rollout_percent": self.release.rollout_percent,
            "reports": self.reports,
            "bad": self.bad,
            "halted": self.halted,
        }


class ReleaseTables(Connections):
    """Rollouts and reports."""

    def set_rollout(self, version: int, percent: int, now: float, halted: bool = False) -> None:
        """Write down how far a version is rolled out; a halt is remembered for good."""
        values: dict[str, Any] = {"percent": percent, "changed_at": now}
        if halted:
            values["halted_at"] = now
        with self._transaction() as connection:
            changed = connection.execute(
                sa.update(rollouts).where(rollouts.c.version == version).values(values)
            )
            if not changed.rowcount:
                connection.execute(sa.insert(rollouts).values(version=version, **values))

    def releases(self, default_percent: int, last: int = 1000) -> list[ReleaseRow]:
        """The newest models, oldest of them first; those without a rollout have the default."""
        with self._transaction(flushed=False) as connection:
            found = connection.execute(_RELEASES.order_by(models.c.version.desc()).limit(last)).all()
        return [_row(row, default_percent) for row in reversed(found)]

    def release(self, version: int, default_percent: int) -> ReleaseRow | None:
        """One model."""
        with self._transaction(flushed=False) as connection:
            row = connection.execute(_RELEASES.where(models.c.version == version)).first()
        return None if row is None else _row(row, default_percent)

    def add_report(self, version: int, device_id: str, report: ModelReport, now: float) -> None:
        """Keep a device's report on a version; a later one takes the place of an earlier one."""
        values = {**report.to_json(), "reported_at": now}
        key = (reports.c.version == version, reports.c.device_id == device_id)
        with self._transaction() as connection:
            changed = connection.execute(sa.update(reports).where(*key).values(values))
            if not changed.rowcount:
                connection.execute(sa.insert(reports).values(version=version, device_id=device_id, **values))


def _row(row: Any, default_percent: int) -> ReleaseRow:
    release = Release(
        version=row.version,
        digest=row.digest,
        size_bytes=row.size_bytes,
        rollout_percent=default_percent if row.percent is None else row.percent,
        from_round=row.number or 0,
    )
    return ReleaseRow(release, row.published_at, row.reports or 0, row.bad or 0, row.halted_at is not None)
