"""A real device process that kills itself, as `kill -9` would, around a chosen message of a round."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from emberfleet.agent.client import ServerClient
from emberfleet.core.errors import EmberError

_forks = multiprocessing.get_context("forkserver")

MESSAGES = ("keys", "roster", "shares", "update", "survivors", "confirmation", "confirmations", "disclosure")
SECURE_POINTS = tuple(f"{when} {what}" for what in MESSAGES for when in ("before", "after"))
"""Around every message of a secure round; after the update is before the survivors."""


def start_device(root: Path, index: int, point: str) -> BaseProcess:
    """Device number `index` of the `MarkedFleet` in `root`, which dies at `point`; never if that is empty."""
    process = _forks.Process(target=_live, args=(str(root), index, point), daemon=True)
    process.start()
    return process


def _live(root: str, index: int, point: str) -> None:
    from tests.faults.marked_fleet import agent_of

    when, _, what = point.partition(" ")
    for method in ("send_message", "read_message"):
        setattr(
            ServerClient, method, _dying(getattr(ServerClient, method), when, what, lambda given: given[1])
        )
    ServerClient.send_update = _dying(ServerClient.send_update, when, what, lambda _given: "update")  # type: ignore[method-assign]
    agent = agent_of(Path(root), index)
    while True:
        try:
            agent.run_once(wait_s=1)
        except EmberError:
            continue


def _dying(
    method: Callable[..., Any], when: str, what: str, name_of: Callable[[tuple[Any, ...]], str]
) -> Callable[..., Any]:
    def call(client: ServerClient, *given: Any) -> Any:
        chosen = name_of(given) == what
        if chosen and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = method(client, *given)
        if chosen and when == "after" and (found or method.__name__ != "read_message"):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return call
