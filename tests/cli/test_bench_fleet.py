from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emberfleet.cli.fleet_figures.figures import FIGURES
from emberfleet.cli.main import app

HANDWRITING = Path(__file__).resolve().parents[2] / "examples" / "data" / "handwriting"
NAMES = [
    "mask_ms", "unmask_50_s", "unmask_1000_s", "average_over_floor", "update_bytes", "round_s",
    "agent_rss_mib", "accuracy_difference",
]  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    result = CliRunner().invoke(app, ["bench", "fleet", "--quick", "--json", "--data", str(HANDWRITING)])
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


@pytest.mark.slow
def test_json_has_the_figures_and_the_setting_and_nothing_else(found: dict[str, Any]) -> None:
    assert list(found) == [*NAMES, "setting"]
    assert all(found[name] >= 0 for name in NAMES)
    assert found["setting"]["not_measured"] == {}
    assert found["setting"]["cores"] >= 1
    assert found["setting"]["cpu"]
    assert "cryptography" in found["setting"]["versions"]


@pytest.mark.slow
def test_an_update_takes_the_bytes_of_its_width(found: dict[str, Any]) -> None:
    assert 10_000 * 15 / 8 <= found["update_bytes"] < 10_100 * 15 / 8


@pytest.mark.slow
def test_the_chosen_graph_stands_beside_the_one_of_twenty_neighbours(found: dict[str, Any]) -> None:
    given, chosen = found["setting"]["unmask_1000"]
    assert (given["neighbours"], given["masks"]) == (20, 30 * 14 + 70)
    assert (chosen["neighbours"], chosen["threshold"]) == (26, 6)
    assert found["unmask_1000_s"] == given["seconds"]


@pytest.mark.slow
def test_every_round_ended_with_a_model(found: dict[str, Any]) -> None:
    (run,) = found["setting"]["round"]
    assert run["rounds"] == 2
    assert found["round_s"] == run["seconds_from_draw_to_model"]
    phases = run["phases_s"]
    assert list(phases) == ["open", "keys", "shares", "collect", "confirm", "unmask", "apply", "publish"]
    assert sum(phases.values()) - phases["open"] == pytest.approx(found["round_s"], abs=0.01)


@pytest.mark.slow
def test_accuracy_is_compared_after_the_same_changes(found: dict[str, Any]) -> None:
    accuracy = found["setting"]["accuracy"]
    assert set(accuracy["rounds"][0]) == {"exact", "16 bits", "8 bits"}
    assert accuracy["test_images"] > 300


def test_the_figures_have_their_names_and_goals() -> None:
    assert [figure.name for figure in FIGURES] == NAMES
    assert [figure.goal for figure in FIGURES] == [20, 0.25, 12, 1.5, 2_400_000, 1, 45, 0.1]


def test_a_python_without_flower_is_told_what_to_install() -> None:
    command = ["bench", "fleet", "--quick", "--against", "flower", "--flower-python", sys.executable]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "pip install flwr" in result.output


def test_without_the_servers_libraries_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("emberfleet.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    result = CliRunner().invoke(app, ["bench", "fleet", "--quick"])
    assert result.exit_code == 2
    assert "emberfleet[server]" in result.output
