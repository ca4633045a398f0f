"""The fleet in numbers: the same facts as JSON for programs and as one plain page for people."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from emberfleet.core.codec import encode_json
from emberfleet.server.storage.database import Database, RoundRow

if TYPE_CHECKING:
    from emberfleet.server.fleet import Fleet

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { padding: .3rem .6rem; text-align: right }
th { border-bottom: 2px solid #999 } td { border-bottom: 1px solid #ddd } td:nth-child(2) { text-align: left }
th:nth-child(2) { text-align: left } .failed { color: #b00020 } dl { display: flex; gap: 3rem }
dd { margin: 0; font-size: 1.6rem }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } }
"""


def round_facts(row: RoundRow) -> dict[str, Any]:
    """One round for a table: no device is named."""
    seconds = None
    if row.started_at is not None and row.closed_at is not None:
        seconds = round(row.closed_at - row.started_at, 3)
    return {
        "round": row.number,
        "phase": row.phase,
        "model_version": row.model_version,
        "cohort": len(row.cohort),
        "accepted": row.accepted,
        "dropped": len(row.dropped),
        "seconds": seconds,
        "metrics": dict(row.metrics),
        "failure": row.failure,
    }


def stored_facts(database: Database) -> dict[str, Any]:
    """What the database knows, with or without a running server."""
    model = database.latest_model()
    devices = database.devices()
    return {
        "model": None if model is None else model.to_json(),
        "devices": {
            "enrolled": sum(device.revoked_at is None for device in devices),
            "revoked": sum(device.revoked_at is not None for device in devices),
        },
        "rounds": [round_facts(row) for row in database.rounds()],
    }


def describe_status(fleet: Fleet) -> bytes:
    """The state of a running server as JSON."""
    running = fleet.coordinator.round
    facts = stored_facts(fleet.database)
    facts["present"] = fleet.coordinator.present
    facts["round"] = None
    if running is not None:
        facts["round"] = {
            "round": running.number,
            "phase": running.phase.value,
            "cohort": len(running.cohort),
            "accepted": len(running.accepted),
            "dropped": len(running.dropped),
        }
    return encode_json(facts)


def render_status(fleet: Fleet) -> str:
    """The state of a running server as a page that asks nobody else for anything."""
    running, model = fleet.coordinator.round, fleet.coordinator.model
    rows = "".join(_row(round_facts(row)) for row in reversed(fleet.database.rounds(last=200)))
    now = "none" if running is None else f"{running.number}, {running.phase}"
    facts = (
        ("Model", f"version {model.version}"),
        ("Devices there", fleet.coordinator.present),
        ("Round", now),
    )
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Emberfleet</title><style>{_STYLE}</style>"
        f"<h1>Emberfleet</h1><dl>{listed}</dl><table><thead><tr><th>Round<th>Phase<th>Cohort<th>Accepted"
        f"<th>Dropped<th>Accuracy<th>Seconds</tr></thead><tbody>{rows}</tbody></table></html>"
    )


def _row(facts: dict[str, Any]) -> str:
    accuracy = facts["metrics"].get("accuracy")
    cells = (
        facts["round"],
        facts["phase"] + (f": {facts['failure']}" if facts["failure"] else ""),
        facts["cohort"],
        facts["accepted"],
        facts["dropped"],
        "" if accuracy is None else f"{100 * accuracy:.2f} %",
        "" if facts["seconds"] is None else f"{facts['seconds']:.2f}",
    )
    kind = ' class="failed"' if facts["failure"] else ""
    return f"<tr{kind}>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"
