"""models, rollout, rollback, releases and renew-root, as an owner calls them, with a real model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emberfleet.agent.releases import ReleaseList
from emberfleet.cli.main import app
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.bundle import Bundle
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.signing import SigningKey
from emberfleet.runtime.retraining import with_tensors
from emberfleet.runtime.runtime import Runtime
from emberfleet.server.fleet import init_server
from emberfleet.server.releasing import open_registry
from tests.runtime.stripes import stripes, trained


@dataclass(frozen=True)
class Office:
    folder: Path
    key: SigningKey

    def call(self, *words: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["server", *(str(word) for word in words)])
        assert result.exit_code == code, result.output
        return result.output

    def models(self) -> list[dict[str, int]]:
        found: list[dict[str, int]] = json.loads(self.call("models", self.folder, "--json"))["models"]
        return found


@pytest.fixture
def office(tmp_path: Path) -> Office:
    key = SigningKey.generate()
    made = Office(tmp_path / "server", key)
    init_server(made.folder, build_bundle(trained(), 1, key, name="stripes"), bundle_key=key)
    tensors = trained().tensors
    name = next(name for name in tensors if name.endswith("weight"))
    worse = with_tensors(trained(), {**tensors, name: np.float32(0.5) * tensors[name]})
    with open_registry(made.folder) as registry:
        registry.import_bundle(build_bundle(worse, 2, key, name="stripes"), 1e9)
    return made


def test_a_rollback_brings_the_same_answers_back_under_a_higher_version(office: Office) -> None:
    assert "Model 3 is published, with the weights of model 1" in office.call("rollback", office.folder, 1)
    trusted = [office.key.verify_key]
    old, bad, new = (
        Runtime.open(office.folder / "models" / f"{version:06d}.ember", trusted, "numpy")
        for version in (1, 2, 3)
    )
    images = stripes(20).images
    np.testing.assert_array_equal(new.logits(images), old.logits(images))
    assert not np.array_equal(bad.logits(images), old.logits(images))
    manifest = Bundle.open(office.folder / "models" / "000003.ember", trusted).manifest
    assert manifest.model_version == 3
    for name, value in old.model.tensors.items():
        np.testing.assert_array_equal(new.model.tensors[name], value)


def test_models_are_listed_with_their_rollouts(office: Office) -> None:
    office.call("rollout", office.folder, 2, 25)
    assert [(row["version"], row["rollout_percent"], row["reports"]) for row in office.models()] == [
        (1, 100, 0),
        (2, 25, 0),
    ]
    table = office.call("models", office.folder)
    assert "25 %" in table
    assert "imported" in table


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rollout", 9, 10), "version 9 is not published"),
        (("rollback", 2), "version 2 is not an older version"),
        (("releases", "--set", "halt_share=2"), "halt_share must be"),
        (("renew-root", "--root-key", "timestamp.key"), "not the root key"),
    ],
)
def test_mistakes_end_with_one_sentence(
    office: Office, words: tuple[object, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(office.folder)
    output = office.call(words[0], office.folder, *words[1:], code=2)
    assert said in " ".join(output.split())
    assert [row["version"] for row in office.models()] == [1, 2]


def test_a_model_trained_elsewhere_is_published_to_a_share(office: Office, tmp_path: Path) -> None:
    build_bundle(trained(), 7, office.key, tmp_path / "new.ember")
    assert "Model 7 is published" in office.call(
        "publish", office.folder, tmp_path / "new.ember", "--percent", 10
    )
    assert (office.models()[-1]["version"], office.models()[-1]["rollout_percent"]) == (7, 10)
    again = " ".join(office.call("publish", office.folder, tmp_path / "new.ember", code=2).split())
    assert "needs a higher version" in again
    build_bundle(trained(), 8, SigningKey.generate(), tmp_path / "foreign.ember")
    office.call("publish", office.folder, tmp_path / "foreign.ember", code=2)
    assert office.models()[-1]["version"] == 7


def test_settings_of_releases_are_shown_and_changed(office: Office) -> None:
    assert json.loads(office.call("releases", office.folder, "--json"))["rollout_percent"] == 100
    changes = ("--set", "rollout_percent=10", "--set", "halt_share=0.25")
    assert "rollout_percent: 10" in office.call("releases", office.folder, *changes)
    again = json.loads(office.call("releases", office.folder, "--json"))
    assert (again["rollout_percent"], again["halt_share"], again["halt_reports"]) == (10, 0.25, 3)


def test_the_root_is_renewed_with_a_key_from_elsewhere(office: Office, tmp_path: Path) -> None:
    shutil.move(office.folder / "root.key", tmp_path / "safe.key")
    root = (office.folder / "tuf" / "1.root.json").read_bytes()
    key_before = (office.folder / "timestamp.key").read_bytes()
    said = office.call("renew-root", office.folder, "--root-key", tmp_path / "safe.key", "--new-keys")
    assert "Root 2 is signed" in said
    office.call("rollout", office.folder, 2, 0)
    assert (office.folder / "timestamp.key").read_bytes() != key_before
    with open_registry(office.folder) as registry:
        repository = registry.repository

        def fetch(name: str, _limit: int) -> bytes:
            found = repository.read(name)
            if found is None:
                raise RefusedError(Reason.NOT_FOUND, "none")
            return found

        newest = ReleaseList(tmp_path / "tuf", root, "d" * 32, fetch).refresh()
    assert newest is not None
    assert newest.version == 1
