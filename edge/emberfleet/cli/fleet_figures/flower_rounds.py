"""Flower's rounds on loopback: one SuperLink, so many SuperNodes, and an app that trains nothing.

Each a process started by Flower's own commands, as its guide does it. The rounds are plain ones: Flower's
secure aggregation would only take longer.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from emberfleet.cli.fleet_figures.idle import resident_mib
from emberfleet.cli.fleet_figures.processes import ended
from emberfleet.core.errors import DeviceError

START_S: Final = 60.0
SETTLE_S: Final = 5.0
"""After the last process is up: until all have found each other, and a node's memory stays."""
ROUNDS_TIMEOUT_S: Final = 300.0
SHOWN_LOG: Final = 800
PYPROJECT: Final = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "idleapp"
version = "1.0.0"
description = "Rounds without training"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "emberfleet"

[tool.flwr.app.components]
serverapp = "idleapp.server:app"
clientapp = "idleapp.client:app"

[tool.flwr.app.config]
rounds = {rounds}
nodes = {nodes}
size = {size}
"""
CLIENT: Final = """
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    arrays = [array + 1e-4 for array in message.content["arrays"].to_numpy_ndarrays()]
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 20})})
    return Message(content=content, reply_to=message)
"""
SERVER: Final = """
import json
import os
import time

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.times = []

    def configure_train(self, *arguments, **named):
        self.times.append([time.time()])
        return super().configure_train(*arguments, **named)

    def aggregate_train(self, number, replies):
        replies = list(replies)
        found = super().aggregate_train(number, replies)
        self.times[-1] += [time.time(), len(replies)]
        return found


@app.main()
def main(grid, context):
    config = context.run_config
    strategy = Timed(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=config["nodes"],
        min_available_nodes=config["nodes"],
    )
    first = ArrayRecord([np.zeros(config["size"], np.float32)])
    strategy.start(grid=grid, initial_arrays=first, num_rounds=config["rounds"])
    with open("{times}.part", "w") as file:
        json.dump(strategy.times, file)
    os.replace("{times}.part", "{times}")
"""


def measure_flower(python: Path, folder: Path, nodes: int, rounds: int, size: int) -> dict[str, Any]:
    """Seconds per round from its draw to its mean, and the memory of one idle node in MiB.

    Args:
        python: Flower's; its commands stand beside it.
        folder: For Flower's files; must not exist.
        nodes: SuperNodes.
        rounds: Their number; the first is not counted where there are more.
        size: Values of the model.

    Raises:
        DeviceError: A process ended by itself, or the rounds were not over in time.
    """
    folder.mkdir()
    _write_app(folder, nodes, rounds, size)
    control, *ports = free_ports(nodes + 1)
    address = f"127.0.0.1:{control}"
    (folder / "home").mkdir()
    superlink = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
    (folder / "home" / "config.toml").write_text(superlink, "utf-8")
    with ExitStack() as stack:
        run = _Flower(python, folder)
        link = ["--insecure", "--host", "127.0.0.1", "--port", str(control)]
        stack.enter_context(
            run.start("superlink", "flower-superlink", *link, "--disable-runtime-dependency-installation")
        )
        _wait_for_port(control)
        processes = []
        for index, port in enumerate(ports):
            join = ["--insecure", "--superlink", address, "--host", "127.0.0.1", "--port", str(port)]
            processes.append(stack.enter_context(run.start(f"node{index}", "flower-supernode", *join)))
        for port in ports:
            _wait_for_port(port)
        time.sleep(SETTLE_S)
        idle = statistics.median(resident_mib(process.pid) for process in processes)
        done = run.ask("flwr", "run", str(folder / "app"), "here")
        times = _wait_for_times(folder, done)
    seconds = [end - begin for begin, end, count in times if count == nodes]
    if len(seconds) != rounds:
        raise DeviceError(f"Flower: {len(seconds)} of {rounds} rounds had all {nodes} nodes: {times}")
    return {
        "round_s": round(statistics.median(seconds[1:] or seconds), 3),
        "agent_rss_mib": round(idle, 1),
        "rounds": [round(value, 3) for value in seconds],
        "nodes": nodes,
    }


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


class _Flower:
    def __init__(self, python: Path, folder: Path) -> None:
        self._commands, self._folder = python.parent, folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(folder / "home"),
            # Flower finds the programs of its own processes there.
            "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", "")]),
        }

    @contextmanager
    def start(self, name: str, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [str(self._commands / program), *arguments]
        with (
            (self._folder / f"{name}.log").open("wb") as log,
            ended(
                subprocess.Popen(command, env=self._environment, cwd=self._folder, stdout=log, stderr=log)
            ) as process,
        ):
            yield process

    def ask(self, program: str, *arguments: str) -> str:
        command = [str(self._commands / program), *arguments]
        done = subprocess.run(
            command, env=self._environment, cwd=self._folder, capture_output=True, check=False, timeout=120
        )
        return (done.stdout + done.stderr).decode("utf-8", "replace")


def _write_app(folder: Path, nodes: int, rounds: int, size: int) -> None:
    app = folder / "app"
    package = app / "idleapp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", "utf-8")
    (package / "client.py").write_text(CLIENT, "utf-8")
    (package / "server.py").write_text(SERVER.replace("{times}", str(folder / "times.json")), "utf-8")
    (app / "pyproject.toml").write_text(PYPROJECT.format(rounds=rounds, nodes=nodes, size=size), "utf-8")


def _wait_for_port(port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise DeviceError(f"Flower: nobody listens on port {port} after {START_S:.0f} s")


def _wait_for_times(folder: Path, said: str) -> Sequence[tuple[float, float, int]]:
    end, path = time.monotonic() + ROUNDS_TIMEOUT_S, folder / "times.json"
    while time.monotonic() < end:
        if path.exists():
            return [(begin, end, count) for begin, end, count in json.loads(path.read_text("utf-8"))]
        time.sleep(0.2)
    log = (folder / "superlink.log").read_text("utf-8", "replace")
    raise DeviceError(f"Flower: no rounds in {ROUNDS_TIMEOUT_S:.0f} s: {(said + log)[-SHOWN_LOG:]}")
