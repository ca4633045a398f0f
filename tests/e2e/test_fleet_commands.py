"""The fleet as a user runs it: every party a process of its own, started by its command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from emberfleet.agent.client import enrol_device
from emberfleet.agent.identity import Identity
from emberfleet.agent.samples import SampleStore
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.bundle import Bundle
from emberfleet.core.signing import SigningKey
from emberfleet.core.tensors import encode_tensors
from tests.runtime.stripes import stripes, trained

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    folders = [str(ROOT / part) for part in ("edge", "server", "converters")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OPENBLAS_NUM_THREADS": "1"}


def ember(*words: str | Path, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "emberfleet.cli", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == expect, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout if expect == 0 else done.stderr


@contextmanager
def process(log: Path, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "emberfleet.cli", *map(str, words)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
        )
    try:
        yield started
    finally:
        started.send_signal(signal.SIGINT)
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def address_in(log: Path) -> str:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for line in log.read_text().splitlines():
            if "running on http" in line:
                return line.split("running on ")[1].split()[0]
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def wait_for(server: str, done: Any, timeout_s: float = 60) -> dict[str, Any]:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        facts: dict[str, Any] = httpx.get(f"{server}/v1/status").json()
        if done(facts):
            return facts
        time.sleep(0.05)
    raise AssertionError(json.dumps(facts, indent=1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A server's folder around a small real model, made by the command."""
    key = SigningKey.generate()
    bundle = tmp_path / "model.ember"
    build_bundle(trained(), 1, key, bundle, name="stripes")
    settings = (
        "mode=sealed",
        "cohort=3",
        "minimum=2",
        "lease_s=2",
        "training.epochs=2",
        "training.rate=0.02",
    )
    options = [word for text in settings for word in ("--set", text)]
    ember("server", "init", tmp_path / "server", "--bundle", bundle, "--trust", key.verify_key.text, *options)
    return tmp_path / "server"


def enrol_by_command(server: str, device: Path, token: str) -> None:
    ember(
        "device",
        "enrol",
        device,
        "--server",
        server,
        "--token",
        token,
        "--name",
        device.name,
        "--allow-sealed",
    )
    data = stripes(40, 0, contrast=60)
    batch = device.parent / f"{device.name}.safetensors"
    batch.write_bytes(encode_tensors({"images": data.images, "labels": data.labels}))
    assert "40 samples" in ember("device", "add-samples", device, batch)


def enrol(server: str, device: Path, token: str, seed: int) -> None:
    enrol_device(server, token, device, device.name, allow_sealed=True)
    data = stripes(40, seed, contrast=60)
    SampleStore(device / "samples").add(data.images, data.labels)


def test_a_fleet_of_processes_completes_a_round_although_one_is_killed(folder: Path, tmp_path: Path) -> None:
    with process(tmp_path / "server.log", "server", "run", folder, "--port", "0", "--rounds", "2"):
        server = address_in(tmp_path / "server.log")
        devices = [tmp_path / f"device{n}" for n in range(3)]
        tokens = json.loads(ember("server", "token", folder, "--count", "3", "--json"))["tokens"]
        enrol_by_command(server, devices[0], tokens[0])
        for n in (1, 2):
            enrol(server, devices[n], tokens[n], n)
        run = ("--backend", "numpy", "--threads", "1")
        with (
            process(tmp_path / "0.log", "device", "run", devices[0], *run),
            process(tmp_path / "1.log", "device", "run", devices[1], *run),
            process(tmp_path / "2.log", "device", "run", devices[2], *run) as victim,
        ):
            wait_for(server, lambda facts: facts["round"] and facts["round"]["phase"] == "collect")
            victim.kill()
            facts = wait_for(server, lambda facts: [r["phase"] for r in facts["rounds"]][:1] == ["done"])
        first = facts["rounds"][0]
        assert first["cohort"] == 3
        assert 2 <= first["accepted"] <= 3
        assert facts["model"]["version"] >= 2
        page = httpx.get(server).text
        assert "<table>" in page
        assert "http://" not in page
        published = folder / "models" / "000002.ember"
        bundle = Bundle.open(published, Identity.load(devices[0]).trusted)
        assert bundle.manifest.model_version == 2
        assert (
            bundle.manifest.parent
            == Bundle.open(folder / "models" / "000001.ember", Identity.load(devices[0]).trusted).digest
        )
    known = json.loads(ember("server", "status", folder, "--json"))
    assert known["devices"]["enrolled"] == 3


def test_users_mistakes_end_with_one_sentence(folder: Path, tmp_path: Path) -> None:
    assert "holds a server already" in ember(
        "server", "init", folder, "--bundle", tmp_path / "model.ember", expect=2
    )
    assert "server init" in ember("server", "run", tmp_path / "nowhere", expect=2)
    assert "no device has the id" in ember("server", "revoke", folder, "x", expect=2)
    assert "device enrol" in ember("device", "run", tmp_path / "nowhere", expect=2)
    assert "name=value" in ember("server", "run", folder, "--set", "cohort", expect=2)
    address = ("--server", "http://127.0.0.1:9", "--token", "x")
    assert "did not answer" in ember("device", "enrol", tmp_path / "device", *address, expect=2)


def test_an_unsigned_first_model_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "model.ember"
    build_bundle(trained(), 1, SigningKey.generate(), bundle)
    text = ember("server", "init", tmp_path / "server", "--bundle", bundle, expect=2)
    assert "does not verify" in text
    assert not (tmp_path / "server").exists()


def test_a_device_takes_samples_as_tensors_and_shows_itself(tmp_path: Path) -> None:
    data = stripes(10)
    batch = tmp_path / "batch.safetensors"
    batch.write_bytes(encode_tensors({"images": data.images, "labels": data.labels}))
    ember("device", "add-samples", tmp_path / "device", batch)
    assert len(SampleStore(tmp_path / "device" / "samples")) == 10
    (tmp_path / "wrong.safetensors").write_bytes(encode_tensors({"images": data.images}))
    assert "expected images and labels" in ember(
        "device", "add-samples", tmp_path / "device", tmp_path / "wrong.safetensors", expect=2
    )
