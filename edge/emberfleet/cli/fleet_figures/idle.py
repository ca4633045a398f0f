"""Memory of a device that waits for work: `emberfleet device run`, enrolled, with the fleet's model."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from emberfleet.agent.client import enrol_device
from emberfleet.agent.models import ModelStore
from emberfleet.agent.retraining import check_with
from emberfleet.agent.samples import SampleStore
from emberfleet.cli.fleet_figures.children import child_environment
from emberfleet.cli.fleet_figures.processes import TIMEOUT_S, ended, serve_folder
from emberfleet.cli.fleet_figures.rounds import SAMPLES
from emberfleet.core.errors import DeviceError
from emberfleet.core.signing import SigningKey
from emberfleet.runtime.measuring import peak_mib, thread_environment
from emberfleet.runtime.workloads import built_in_model, noise

SETTLE_S: Final = 6.0
"""From the model's arrival until the device has begun anew, asked for work and waits."""
READINGS: Final = 5
BETWEEN_S: Final = 0.2
PAIR: Final = 2
"""A round needs so many devices, and one is there: nobody is ever asked."""


def measure_idle(folder: Path) -> dict[str, Any]:
    """Resident memory in MiB while the device waits, and the most that it held before that.

    Raises:
        DeviceError: The device ended by itself, or the model did not reach it.
    """
    from emberfleet.converters.bundle import build_bundle
    from emberfleet.server.fleet import init_server, make_tokens
    from emberfleet.server.rounds.plan import RoundPlan

    folder.mkdir()
    key = SigningKey.generate()
    server, place = folder / "server", folder / "device"
    model = built_in_model()
    plan = RoundPlan(scope="full", pool=PAIR, pool_wait_s=TIMEOUT_S)
    init_server(server, build_bundle(model, 1, key), (key.verify_key,), plan)
    with serve_folder(server, 0, folder / "server.log") as (_, address):
        identity = enrol_device(address, make_tokens(server)[0], place, "idle")
        SampleStore(place / "samples").add(
            noise(SAMPLES, model.preprocessing), np.arange(SAMPLES) % model.graph.classes
        )
        command = [sys.executable, "-m", "emberfleet.cli", "device", "run", str(place)]
        log = folder / "device.log"
        with (
            log.open("wb") as output,
            ended(
                subprocess.Popen(
                    command,
                    env={**child_environment(), **thread_environment(1)},
                    stdout=output,
                    stderr=output,
                )
            ) as process,
        ):
            store = ModelStore(place, check_with(identity.trusted))
            end = time.monotonic() + TIMEOUT_S
            while store.version() == 0 and time.monotonic() < end and process.poll() is None:
                time.sleep(BETWEEN_S)
            if store.version() == 0:
                raise DeviceError(f"the model did not reach the device: {log.read_text('utf-8', 'replace')}")
            time.sleep(SETTLE_S)
            readings = []
            for _ in range(READINGS):
                readings.append(resident_mib(process.pid))
                time.sleep(BETWEEN_S)
            return {"rss_mib": statistics.median(readings), "peak_mib": peak_mib(process.pid)}


def resident_mib(pid: int) -> float:
    """The memory that a process and those that it has started hold now, in MiB.

    Raises:
        DeviceError: It is gone, or the system does not tell.
    """
    return round(_own_mib(pid) + sum(resident_mib(child) for child in _children(pid)), 1)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text("ascii").split())
    return found


def _own_mib(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError as error:
        raise DeviceError(f"process {pid}: the system does not tell its memory: {error.strerror}") from error
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")]
    if not found:
        raise DeviceError(f"process {pid}: ended before its memory was read")
    return int(found[0]) / 1024
