"""A running server keeps its list of models fresh."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from emberfleet.agent.agent import Agent
from emberfleet.agent.client import Backoff, ServerClient, enrol_device
from emberfleet.core.signing import SigningKey
from emberfleet.server.fleet import ServerConfig, init_server, make_tokens
from emberfleet.server.registry.policy import ReleasePolicy
from tests.fleet import Target, listening, make_bundle, open_bundle, small_model


def test_the_timestamp_of_a_running_server_never_runs_out_and_its_root_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, key = tmp_path / "server", SigningKey.generate()
    trusted = (key.verify_key,)
    init_server(
        folder,
        make_bundle(small_model(), 1, key),
        bundle_key=key,
        opener=lambda data: open_bundle(data, trusted),
        releases=ReleasePolicy(timestamp_s=2, root_s=90 * 24 * 3600),
    )
    config = ServerConfig(
        folder,
        lambda _current, tensors, version: make_bundle(tensors, version, key),
        opener=lambda data: open_bundle(data, trusted),
    )
    with listening(config) as address:
        assert "the TUF root is good until" in caplog.text
        identity = enrol_device(address, make_tokens(folder)[0], tmp_path / "device", "kitchen")
        client = ServerClient(identity.server, identity.key, identity.device_id, Backoff(2, 0.01, 0.02))
        agent = Agent(
            tmp_path / "device",
            Target(0.0, trusted=identity.trusted),
            lambda data: open_bundle(data, identity.trusted).version,
            client=client,
        )
        end = time.monotonic() + 4.5
        while time.monotonic() < end:
            agent.fetch_model(hint=9)
            time.sleep(0.3)
        agent.close()
    signed = json.loads((folder / "tuf" / "timestamp.json").read_bytes())["signed"]
    assert signed["version"] > 4.5 / 2, "signed anew at least once in each lifetime"
