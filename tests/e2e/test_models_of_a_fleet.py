"""A bad model on its way through a fleet of processes: published, refused by a device, taken back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from emberfleet.agent.client import enrol_device
from emberfleet.agent.samples import SampleStore
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.signing import SigningKey
from tests.e2e.test_fleet_commands import address_in, ember, process, wait_for
from tests.runtime.stripes import stripes, trained, untrained


def device_status(device: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ember("device", "status", device, "--json"))
    return found


def wait_for_serving(device: Path, version: int, serving: int) -> None:
    end = time.monotonic() + 60
    while True:
        found = device_status(device)
        if (found["model_version"], found["serving_version"]) == (version, serving):
            return
        assert time.monotonic() < end, found
        time.sleep(0.2)


@pytest.mark.slow
def test_a_bad_model_is_refused_by_a_device_survives_a_killed_server_and_is_taken_back(
    tmp_path: Path,
) -> None:
    key, folder, device = SigningKey.generate(), tmp_path / "server", tmp_path / "device"
    build_bundle(trained(), 1, key, tmp_path / "good.ember", name="stripes")
    build_bundle(untrained(), 2, key, tmp_path / "bad.ember", name="stripes")
    trust = ("--trust", key.verify_key.text)
    ember("server", "init", folder, "--bundle", tmp_path / "good.ember", *trust, "--set", "cohort=50")
    (token,) = json.loads(ember("server", "token", folder, "--no-pin", "--json"))["tokens"]
    with process(tmp_path / "1.log", "server", "run", folder, "--port", "0") as server:
        address = address_in(tmp_path / "1.log")
        port = address.rpartition(":")[2]
        enrol_device(address, token, device, "kitchen")
        data = stripes(150, 4)
        SampleStore(device / "samples").add(data.images, data.labels)
        run = ("device", "run", device, "--backend", "numpy", "--threads", "1")
        with process(tmp_path / "device.log", *run):
            wait_for_serving(device, 1, 1)
            assert "Model 2 is published" in ember("server", "publish", folder, tmp_path / "bad.ember")
            wait_for_serving(device, 2, 1)
            wait_for(address, lambda facts: facts["models"][-1]["bad"] == 1)
            server.kill()
            server.wait()
            with process(tmp_path / "2.log", "server", "run", folder, "--port", port):
                assert address_in(tmp_path / "2.log") == address
                facts = wait_for(address, lambda facts: facts["model"]["version"] == 2)
                assert (facts["models"][-1]["reports"], facts["models"][-1]["bad"]) == (1, 1)
                assert "Model 3" in ember("server", "rollback", folder, "1")
                wait_for_serving(device, 3, 3)
                facts = wait_for(address, lambda facts: facts["models"][-1]["reports"] == 1)
                assert facts["models"][-1]["bad"] == 0
    assert "did worse here" in (tmp_path / "device.log").read_text()
