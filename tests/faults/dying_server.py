"""A real server process that kills itself, as `kill -9` would, before a chosen durable step.

What outlives a process changes at commits of the database, and where files are renamed, synced or removed.
A server that dies before the n-th such step, for every n, has died in every state that a restart can find.
Steps that store a round anew, its transitions among them, are counted by themselves too.

SIGUSR1 makes the disk read-only for the process (`read_only`).

Processes are forked from one that has everything imported, so that a test can kill many.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
import uvicorn

from emberfleet.core.arrays import Tensors
from emberfleet.core.signing import SigningKey
from emberfleet.server.app import create_app
from emberfleet.server.fleet import ServerConfig
from emberfleet.server.registry.publisher import OpenedModel
from tests.faults.read_only import turn_read_only
from tests.fleet import make_bundle, open_bundle

FILE_STEPS = ("replace", "rename", "fsync", "unlink", "rmdir")
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__])


class Step(StrEnum):
    """What is counted."""

    ANY = "any"
    ROUND = "round"


@dataclass
class Steps:
    """Counts durable steps, and dies before the one chosen."""

    kind: Step = Step.ANY
    die_at: int = 0
    count: dict[Step, int] = field(default_factory=lambda: dict.fromkeys(Step, 0))
    round_changes: bool = False

    def watch(self) -> None:
        """From here on every durable step of this process is counted."""
        sa.event.listen(sa.Engine, "before_cursor_execute", self._note_statement)
        sa.event.listen(sa.Engine, "commit", lambda _connection: self._commit())
        for name in FILE_STEPS:
            setattr(os, name, self._counted(getattr(os, name)))

    def _note_statement(self, *arguments: Any) -> None:
        statement = str(arguments[2]).lstrip().upper()
        self.round_changes |= statement.startswith(("UPDATE ROUNDS", "INSERT INTO ROUNDS"))

    def _commit(self) -> None:
        self._take(Step.ANY)
        if self.round_changes:
            self.round_changes = False
            self._take(Step.ROUND)

    def _take(self, kind: Step) -> None:
        self.count[kind] += 1
        if kind is self.kind and self.count[kind] == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self._take(Step.ANY)
            return step(*arguments, **options)

        return counted


def config_of(folder: Path, rounds: int) -> ServerConfig:
    """The server of a folder that holds the small test model."""
    key = SigningKey.load(folder / "bundle.key")

    def opener(data: bytes) -> OpenedModel:
        return open_bundle(data, (key.verify_key,))

    def publisher(current: bytes, tensors: Tensors, version: int) -> bytes:
        return make_bundle(tensors, version, key)

    return ServerConfig(folder, publisher, rounds=rounds, opener=opener)


def _serve(folder: str, port: int, steps: Steps, rounds: int, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    steps.watch()
    signal.signal(signal.SIGUSR1, lambda _number, _frame: turn_read_only())
    app = create_app(config_of(Path(folder), rounds))
    uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="info")).run()


class MortalServer:
    """One server's folder and port, and the processes that serve it one after the other."""

    def __init__(self, folder: Path, log: Path, rounds: int = 0) -> None:
        self.folder, self.log, self.rounds = folder, log, rounds
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process: BaseProcess | None = None

    @property
    def address(self) -> str:
        """Where it listens, each time."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that serves."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def start(self, kind: Step = Step.ANY, die_at: int = 0, timeout_s: float = 20.0) -> bool:
        """Start a process; False where it died before it listened."""
        assert self._process is None or not self._process.is_alive()
        steps = Steps(kind, die_at)
        arguments = (str(self.folder), self.port, steps, self.rounds, str(self.log))
        self._process = _forks.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if not self._process.is_alive():
                assert self._process.exitcode == -signal.SIGKILL, self.log.read_text("utf-8")[-4000:]
                return False
            try:
                httpx.get(f"{self.address}/v1/status", timeout=1)
            except httpx.HTTPError:
                time.sleep(0.01)
            else:
                return True
        raise AssertionError(f"the server does not listen: {self.log.read_text('utf-8')[-4000:]}")

    def wait_until_dead(self, timeout_s: float) -> bool:
        """Whether it died by its own hand in so many seconds."""
        assert self._process is not None
        self._process.join(timeout_s)
        return self._process.exitcode == -signal.SIGKILL

    def kill(self) -> None:
        """What `kill -9` does."""
        assert self._process is not None
        self._process.kill()
        self._process.join(10)

    def stop(self) -> None:
        """End it as its owner does."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGTERM)
        self._process.join(20)
        assert self._process.exitcode in (0, -signal.SIGTERM), self.log.read_text("utf-8")[-4000:]
