"""A real server on loopback and real devices, small enough to run in milliseconds.

The model is a handful of tensors, and training moves them towards a target that each device has of
its own, so what the fleet should learn is known exactly: the weighted mean of the targets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from emberfleet.agent.agent import Agent
from emberfleet.agent.client import Backoff, ServerClient, enrol_device
from emberfleet.agent.rounds.training import Retrained
from emberfleet.agent.samples import Samples
from emberfleet.core.arrays import Float32, Tensors
from emberfleet.core.codec import Scalar
from emberfleet.core.errors import FormatError
from emberfleet.core.signing import SigningKey, VerifyKey, open_envelope, sign_envelope
from emberfleet.core.tensors import decode_tensors_and_metadata, encode_tensors
from emberfleet.server.app import create_app
from emberfleet.server.fleet import ServerConfig, init_server, make_tokens
from emberfleet.server.registry.publisher import Evaluator, OpenedModel
from emberfleet.server.rounds.plan import RoundPlan

MODEL_TYPE = "application/vnd.emberfleet.test-model"
SHAPES = {"conv/weight": (4, 3, 3, 2), "conv/bias": (4,), "norm/mean": (4,), "norm/variance": (4,)}


def small_model(value: float = 0.0) -> dict[str, Float32]:
    return {name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()}


def make_bundle(tensors: Tensors, version: int, key: SigningKey) -> bytes:
    return sign_envelope(MODEL_TYPE, encode_tensors(tensors, {"version": str(version)}), key)


def open_bundle(data: bytes, trusted: tuple[VerifyKey, ...]) -> OpenedModel:
    tensors, metadata = decode_tensors_and_metadata(open_envelope(data, MODEL_TYPE, trusted))
    if "version" not in metadata:
        raise FormatError("test model: no version")
    return OpenedModel(int(metadata["version"]), tensors)


@dataclass
class Target:
    """Training that jumps to a value of the device's own."""

    value: float
    samples: int = 1
    trusted: tuple[VerifyKey, ...] = ()
    before: Callable[[], None] = field(default=lambda: None)
    settings: list[Mapping[str, Scalar]] = field(default_factory=list)

    def __call__(
        self, bundle: Path, samples: Samples, training: Mapping[str, Scalar], seed: int
    ) -> Retrained:
        self.settings.append(training)
        self.before()
        old = open_bundle(bundle.read_bytes(), self.trusted).tensors
        new = {name: np.full_like(value, self.value) for name, value in old.items()}
        return Retrained(old, new, self.samples, {"loss": abs(self.value)})


@dataclass
class RunningServer:
    folder: Path
    address: str
    key: SigningKey

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.address}/v1/status").json()
        return found

    def rounds(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.status()["rounds"]
        return listed

    def wait_for_rounds(self, count: int, timeout_s: float = 20.0) -> list[dict[str, Any]]:
        """Wait until so many rounds are over."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            over = [row for row in self.rounds() if row["phase"] in ("done", "failed")]
            if len(over) >= count:
                return over
            time.sleep(0.02)
        raise AssertionError(f"{self.rounds()}: expected {count} rounds over in {timeout_s} s")

    def model(self, version: int) -> dict[str, Float32]:
        data = (self.folder / "models" / f"{version:06d}.ember").read_bytes()
        return dict(open_bundle(data, (self.key.verify_key,)).tensors)

    def device(
        self,
        folder: Path,
        retrain: Target,
        name: str = "device",
        client_type: type[ServerClient] = ServerClient,
    ) -> Agent:
        """Enrol a device with a fresh token and one sample."""
        token = make_tokens(self.folder)[0]
        identity = enrol_device(self.address, token, folder, name, allow_sealed=True)
        retrain.trusted = identity.trusted
        client = client_type(identity.server, identity.key, identity.device_id, Backoff(3, 0.01, 0.05))
        agent = Agent(
            folder, retrain, lambda data: open_bundle(data, identity.trusted).version, client=client
        )
        agent.samples.add(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int64))
        return agent


@contextmanager
def serve(
    folder: Path,
    plan: RoundPlan,
    rounds: int = 1,
    tensors: Tensors | None = None,
    evaluator: Evaluator | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[RunningServer]:
    """A server on a free port of loopback, in a thread of its own."""
    key = SigningKey.generate()
    trusted = (key.verify_key,)

    def opener(data: bytes) -> OpenedModel:
        return open_bundle(data, trusted)

    def publisher(current: bytes, tensors: Tensors, version: int) -> bytes:
        return make_bundle(tensors, version, key)

    first = make_bundle(small_model() if tensors is None else tensors, 1, key)
    init_server(folder, first, plan=plan, bundle_key=key, opener=opener)
    config = ServerConfig(folder, publisher, rounds=rounds, opener=opener, evaluator=evaluator, clock=clock)
    with listening(config) as address:
        yield RunningServer(folder, address, key)


@contextmanager
def listening(config: ServerConfig) -> Iterator[str]:
    """Serve an existing folder; gives the address."""
    server = uvicorn.Server(uvicorn.Config(create_app(config), "127.0.0.1", 0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < end, "the server takes too long to start"
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def at_work(agents: list[Agent]) -> Iterator[None]:
    """Every agent in a thread of its own, until the block ends."""
    stop = threading.Event()

    def work(agent: Agent) -> None:
        while not stop.is_set():
            try:
                agent.run_once(wait_s=1)
            except Exception:
                if not stop.is_set():
                    raise

    threads = [threading.Thread(target=work, args=(agent,), daemon=True) for agent in agents]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for agent in agents:
            agent.close()
        for thread in threads:
            thread.join(5)
