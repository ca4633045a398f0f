"""The fleet in numbers: the same facts as JSON for programs and as one plain page for people."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from emberfleet.core.codec import encode_json
from emberfleet.core.offers import Mode
from emberfleet.core.releases import EVERYBODY
from emberfleet.server.rounds.state import Phase, Round
from emberfleet.server.storage.database import Database, RoundSummary
from emberfleet.server.storage.releases import ReleaseRow

if TYPE_CHECKING:
    from emberfleet.server.fleet import Fleet

SHOWN_MODELS: Final = 50
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { padding: .3rem .6rem; text-align: right }
th { border-bottom: 2px solid #999 } td { border-bottom: 1px solid #ddd } td:nth-child(2) { text-align: left }
th:nth-child(2) { text-align: left } .failed { color: #b00020 } dl { display: flex; gap: 3rem }
dd { margin: 0; font-size: 1.6rem }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } }
"""


def round_facts(row: RoundSummary) -> dict[str, Any]:
    """One round for a table: no device is named."""
    seconds = None
    if row.started_at is not None and row.closed_at is not None:
        seconds = round(row.closed_at - row.started_at, 3)
    return {
        "round": row.number,
        "phase": row.phase,
        "mode": row.plan.get("mode", Mode.SEALED.value),
        "model_version": row.model_version,
        "cohort": row.cohort,
        "accepted": row.accepted,
        "dropped": row.dropped,
        "culprits": row.culprits,
        "seconds": seconds,
        "metrics": dict(row.metrics),
        "failure": row.failure,
    }


def stored_facts(database: Database, rollout_percent: int = EVERYBODY) -> dict[str, Any]:
    """What the database knows, with or without a running server.

    Args:
        database: The server's.
        rollout_percent: Of models whose rollout nobody has set.
    """
    model = database.latest_model()
    devices = database.devices()
    return {
        "model": None if model is None else model.to_json(),
        "devices": {
            "enrolled": sum(device.revoked_at is None for device in devices),
            "revoked": sum(device.revoked_at is not None for device in devices),
        },
        "models": [row.to_json() for row in database.releases(rollout_percent, SHOWN_MODELS)],
        "rounds": [round_facts(row) for row in database.summaries()],
    }


def describe_status(fleet: Fleet) -> bytes:
    """The state of a running server as JSON."""
    running = fleet.coordinator.round
    facts = stored_facts(fleet.database, fleet.releases.rollout_percent)
    facts["present"] = fleet.coordinator.present
    facts["round"] = None if running is None else running_facts(running, fleet.clock())
    return encode_json(facts)


def running_facts(round_: Round, now: float) -> dict[str, Any]:
    """The round at hand in numbers: how many devices came how far."""
    found: dict[str, Any] = {
        "round": round_.number,
        "mode": round_.mode.value,
        "phase": round_.phase.value,
        "cohort": len(round_.cohort),
        "accepted": len(round_.accepted),
        "dropped": len(round_.members) - len(round_.outstanding(now)) - len(round_.accepted),
    }
    if round_.mode is Mode.SECURE:
        survivors = round_.survivors
        found["secure"] = {
            "keys": len(round_.adverts),
            "shares": len(round_.shares),
            "participants": 0 if round_.group is None else len(round_.group.participants),
            "survivors": 0 if survivors is None else len(survivors.survivors),
            "confirmations": len(round_.confirmations),
            "disclosures": len(round_.disclosures),
        }
    return found


def render_status(fleet: Fleet) -> str:
    """The state of a running server as a page that asks nobody else for anything."""
    running, model = fleet.coordinator.round, fleet.coordinator.model
    rows = "".join(_row(round_facts(row)) for row in reversed(fleet.database.summaries(last=200)))
    models = "".join(_model_row(row) for row in reversed(fleet.registry.overview(SHOWN_MODELS)))
    now = "none" if running is None else _words(running, fleet.clock())
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
        f"<th>Dropped<th>Accuracy<th>Seconds</tr></thead><tbody>{rows}</tbody></table>"
        f"<h2>Models</h2><table><thead><tr><th>Version<th>Rollout<th>Reports<th>Went back</tr></thead>"
        f"<tbody>{models}</tbody></table></html>"
    )


def _words(round_: Round, now: float) -> str:
    """Where a round stands, for people."""
    facts = running_facts(round_, now)
    counted = facts.get("secure", {})
    done = {
        Phase.OPEN: "waiting for devices",
        Phase.KEYS: f"{counted.get('keys')} of {facts['cohort']} sent keys",
        Phase.SHARES: f"{counted.get('shares')} of {counted.get('keys')} sent shares",
        Phase.COLLECT: f"{facts['accepted']} updates, {len(round_.outstanding(now))} awaited",
        Phase.CONFIRM: f"{counted.get('confirmations')} of {counted.get('survivors')} confirmed",
        Phase.UNMASK: f"{counted.get('disclosures')} of {counted.get('survivors')} disclosed",
    }
    return f"{round_.number}, {round_.mode}: {done.get(round_.phase, round_.phase.value)}"


def _model_row(row: ReleaseRow) -> str:
    percent = row.release.rollout_percent
    stopped = row.halted and not percent
    rollout = "halted" if stopped else f"{percent} %"
    kind = ' class="failed"' if stopped else ""
    cells = (row.release.version, rollout, row.reports, row.bad)
    return f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


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
