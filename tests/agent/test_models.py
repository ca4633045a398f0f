"""The bundles a device keeps: newest, serving, judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from emberfleet.agent.models import ModelState, ModelStore
from emberfleet.agent.releases import RollbackError
from emberfleet.core.errors import FormatError, SignatureError
from emberfleet.core.messages import ModelInfo, ModelReport

WORSE = ModelReport(0.5, 0.9, 20, kept=False)


def store_in(folder: Path) -> ModelStore:
    """A store whose bundles are their version as text."""
    return ModelStore(folder, lambda data: int(data))


def install(store: ModelStore, version: int) -> None:
    store.install(ModelInfo(version, "0" * 64, 1), str(version).encode())


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ember"))


def test_an_older_model_is_never_taken(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert (store.version(), store.path(), store.serving_path()) == (0, None, None)
    install(store, 2)
    install(store, 5)
    with pytest.raises(RollbackError, match="has 5 already"):
        install(store, 2)
    path = store_in(tmp_path).path()
    assert path is not None
    assert path.read_bytes() == b"5"


def test_a_bundle_that_says_another_version_is_not_taken(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with pytest.raises(FormatError, match="says version 2, expected 3"):
        store.install(ModelInfo(3, "0" * 64, 1), b"2")
    assert store.version() == 0


def test_a_bundle_that_nobody_trusted_signed_leaves_the_old_one(tmp_path: Path) -> None:
    def check(data: bytes) -> int:
        if data == b"evil":
            raise SignatureError("untrusted")
        return 1

    store = ModelStore(tmp_path, check)
    store.install(ModelInfo(1, "0" * 64, 1), b"good")
    with pytest.raises(SignatureError):
        store.install(ModelInfo(2, "0" * 64, 1), b"evil")
    path = store.path()
    assert path is not None
    assert path.read_bytes() == b"good"


def test_the_first_model_serves_at_once_and_the_next_waits_to_be_judged(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    install(store, 1)
    assert (store.state(), store.waiting()) == (ModelState(1, 1, 1), None)
    install(store, 2)
    assert store.state() == ModelState(version=2, serving=1, judged=1)
    waiting = store_in(tmp_path).waiting()
    assert waiting is not None
    assert [path.read_bytes() for path in waiting] == [b"2", b"1"]
    store.judge(None, keep_new=True)
    assert (store.state(), store.waiting()) == (ModelState(2, 2, 2), None)
    assert files(tmp_path) == ["model-000002.ember"]


def test_a_model_that_did_worse_is_trained_and_the_one_before_it_serves(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    install(store, 1)
    install(store, 2)
    store.judge(WORSE, keep_new=False)
    path, serving = store.path(), store.serving_path()
    assert path is not None
    assert serving is not None
    assert (path.read_bytes(), serving.read_bytes()) == (b"2", b"1")
    install(store, 3)
    assert store.state() == ModelState(version=3, serving=1, judged=2)
    assert files(tmp_path) == ["model-000001.ember", "model-000003.ember"]
    store.judge(None, keep_new=True)
    assert files(tmp_path) == ["model-000003.ember"]


def test_a_report_waits_until_the_server_has_it(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    install(store, 1)
    install(store, 2)
    assert store.unsent_report() is None
    store.judge(WORSE, keep_new=False)
    assert store_in(tmp_path).unsent_report() == (2, WORSE)
    store.report_sent()
    assert store.unsent_report() is None


def test_a_state_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"version": 2, "serving": 3, "judged": 2}')
    with pytest.raises(FormatError, match="serving"):
        store_in(tmp_path).state()
