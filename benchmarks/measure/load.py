"""A secure round of a thousand simulated devices with one server: requests, latency, memory.

The server is a process of its own, `emberfleet server run`; the devices are clients in as many processes as
the machine has cores, which they share with the server. The graph is the one that the server chooses for so
many devices, 5 % corrupt and 30 % dropping out; one device in twenty gives up after it shared its secrets.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.load.devices import CHANGE, Crowd, describe
from benchmarks.measure.setting import Setting
from emberfleet.cli.fleet_figures.children import ask_once
from emberfleet.cli.fleet_figures.processes import serve_folder, wait_for_rounds
from emberfleet.cli.fleet_figures.rounds import phase_seconds, processor_s
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.bundle import Bundle
from emberfleet.core.errors import DeviceError
from emberfleet.core.offers import Mode
from emberfleet.core.secure.parameters import choose_parameters
from emberfleet.core.signing import SigningKey
from emberfleet.core.updates import UpdatePlan
from emberfleet.runtime.measuring import peak_mib
from emberfleet.runtime.workloads import built_in_model
from emberfleet.server.fleet import init_server, make_tokens
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.storage.files import ServerFolder

DEVICES, QUICK = 1000, 60
VANISHING = 20
"""One in so many gives up."""
TENSOR = "fire6/expand1x1/weight"
"""Its 2,048 values are what is summed."""
TIMEOUT_S = 1500.0
"""Of the whole round and of each of its phases: on a busy machine a thousand devices take minutes."""


def measure(setting: Setting) -> dict[str, Any]:
    """A round of a thousand devices, or of 60 to show that it works."""
    return run_load(setting.folder / "load", QUICK if setting.quick else DEVICES, os.cpu_count() or 1)


def run_load(folder: Path, devices: int, processes: int) -> dict[str, Any]:
    """One round of so many devices, simulated by so many processes.

    Raises:
        DeviceError: The round failed, or the model did not change by what the devices sent.
    """
    folder.mkdir()
    server, key = folder / "server", SigningKey.generate()
    model = built_in_model()
    plan = RoundPlan(
        cohort=devices,
        minimum=math.ceil(0.7 * devices),
        pool_wait_s=TIMEOUT_S,
        keys_s=TIMEOUT_S,
        shares_s=TIMEOUT_S,
        deadline_s=TIMEOUT_S,
        confirm_s=TIMEOUT_S,
        unmask_s=TIMEOUT_S,
        lease_s=0.0,
        presence_s=TIMEOUT_S,
        tensors=(TENSOR,),
        bits=8,
        mode=Mode.SECURE,
    )
    init_server(server, build_bundle(model, 1, key), (key.verify_key,), plan)
    tokens = make_tokens(server, devices)
    with serve_folder(server, 1, folder / "server.log") as (process, address):
        url = urlsplit(address)
        before = processor_s(process.pid)
        crowds = [
            Crowd(
                url.hostname or "",
                url.port or 0,
                tokens[start::processes],
                len(tokens[start::processes]) // VANISHING,
                TIMEOUT_S,
            )
            for start in range(processes)
        ]
        with ThreadPoolExecutor(processes) as threads:
            jobs = [
                threads.submit(ask_once, "simulated devices", "benchmarks.load.devices", describe(crowd))
                for crowd in crowds
            ]
            told = [job.result() for job in jobs]
        (row,) = wait_for_rounds(server, 1, [process])
        facts = {
            "server_peak_mib": peak_mib(process.pid),
            "server_processor_s": round(processor_s(process.pid) - before, 1),
        }
    if row.phase != "done":
        raise DeviceError(f"the round is {row.phase}, expected done: {row.failure}")
    _check_model(server, key, plan.bits)
    graph = choose_parameters(devices, plan.corrupt_share, plan.dropout_share)
    return {
        "devices": devices,
        "gave_up": sum(crowd.vanishing for crowd in crowds),
        "neighbours": graph.degree,
        "threshold": graph.threshold,
        "values": int(model.tensors[TENSOR].size),
        "round_s": round((row.closed_at or 0.0) - (row.started_at or 0.0), 2),
        "phases_s": phase_seconds(row),
        **_requests(told),
        **facts,
        "clients_processor_s": round(sum(found["processor_s"] for found in told), 1),
        "client_processes": processes,
        "rows": _latencies(told),
    }


def _requests(told: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = max(found["end"] for found in told) - min(found["begin"] for found in told)
    counted = sum(
        len(times) for found in told for kind, times in found["seconds"].items() if kind != "enrol"
    ) + sum(found["held"] for found in told)
    return {
        "wall_s": round(seconds, 2),
        "requests": counted,
        "requests_per_s": round(counted / seconds, 1),
        "busy": sum(found["busy"] for found in told),
        "reconnected": sum(found["reconnected"] for found in told),
        "not_needed": sum(found["late"] for found in told),
    }


def _latencies(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Milliseconds from a request's first byte to its answer's last, as the clients saw them."""
    kinds = list(dict.fromkeys(kind for found in told for kind in found["seconds"]))
    rows = []
    for kind in kinds:
        times = 1e3 * np.concatenate([found["seconds"].get(kind, []) for found in told])
        p50, p99 = np.percentile(times, [50, 99])
        rows.append(
            {
                "request": kind,
                "count": int(times.size),
                "p50_ms": round(float(p50), 1),
                "p99_ms": round(float(p99), 1),
                "most_ms": round(float(times.max()), 1),
            }
        )
    return rows


def _check_model(server: Path, key: SigningKey, bits: int) -> None:
    """The model must have changed by what every device sent, to a step of the rounding."""
    folder = ServerFolder(server)
    trusted = (key.verify_key, SigningKey.load(folder.bundle_key).verify_key)
    old, new = (
        Bundle.open(server / "models" / f"{version:06d}.ember", trusted).tensors()[TENSOR]
        for version in (1, 2)
    )
    plan = UpdatePlan.for_model({TENSOR: old}, [TENSOR], bits)
    error = float(np.abs(new - old - CHANGE).max())
    if error > plan.step(plan.tensors[0]):
        raise DeviceError(f"the model is {error:.3g} away from what the devices sent")
