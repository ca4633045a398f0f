"""A fleet whose every model shows who is in it: device i moves coordinate i, and nothing else.

After a round with n updates of equal weight the i-th coordinate has moved by ``MARK / n`` steps if device i
was counted once, and not at all if it was not; counted twice, it would show as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import httpx
import numpy as np

from emberfleet.agent.agent import Agent, Outcome
from emberfleet.agent.client import Backoff, ServerClient, enrol_device
from emberfleet.agent.identity import Identity
from emberfleet.agent.rounds.training import Retrained
from emberfleet.agent.samples import Samples
from emberfleet.core.arrays import Float32
from emberfleet.core.codec import Fields, Scalar
from emberfleet.core.errors import EmberError
from emberfleet.core.offers import Mode
from emberfleet.core.signing import SigningKey, VerifyKey
from emberfleet.core.updates import UpdatePlan
from emberfleet.server.fleet import init_server, make_tokens
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.storage.database import Database, RoundRow
from tests.faults.dying_server import MortalServer
from tests.fleet import make_bundle, open_bundle

TENSOR, CLIP, BITS = "conv/weight", 0.25, 16
MARK = 64
"""So many steps a device moves its coordinate: a whole number, so rounding changes nothing."""


def marked_plan(**settings: object) -> RoundPlan:
    """A round in which every tensor's clip is CLIP, and all weigh the same."""
    values = {"mode": "secure", "bits": BITS, "clip": CLIP, "relative_clip": 0.0, "heaviest": 1, **settings}
    return RoundPlan.from_fields(Fields.of(values, "round plan"))


@dataclass
class Mark:
    """Training that moves one coordinate."""

    index: int
    trusted: tuple[VerifyKey, ...] = ()

    def __call__(
        self, bundle: Path, samples: Samples, training: Mapping[str, Scalar], seed: int
    ) -> Retrained:
        old = open_bundle(bundle.read_bytes(), self.trusted).tensors
        new = {name: value.copy() for name, value in old.items()}
        plan = UpdatePlan.for_model({TENSOR: np.zeros(1, np.float32)}, [TENSOR], BITS, CLIP, 0.0)
        # The old value is subtracted again: what is left must be whole steps, so the model starts at zero
        # and moves in them.
        new[TENSOR][self.index] += np.float32(MARK * plan.step(plan.tensors[0]))
        return Retrained(old, new, 1)


def folder_of(root: Path, index: int) -> Path:
    """Where a device of the fleet in `root` keeps its things."""
    return root / f"device{index}"


def agent_of(root: Path, index: int, transport: httpx.BaseTransport | None = None) -> Agent:
    """Device number `index` of the fleet in `root`, from its folder."""
    folder = folder_of(root, index)
    identity = Identity.load(folder)
    client = ServerClient(
        identity.server, identity.key, identity.device_id, backoff=Backoff(2, 0.01, 0.05), transport=transport
    )
    check = partial(_version_of, trusted=identity.trusted)
    agent = Agent(folder, Mark(index, identity.trusted), check, client=client)
    if not len(agent.samples):
        agent.samples.add(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int64))
    return agent


def _version_of(data: bytes, trusted: tuple[VerifyKey, ...]) -> int:
    return open_bundle(data, trusted).version


class MarkedFleet:
    """A server's folder, its processes, and devices at work in threads."""

    def __init__(self, folder: Path, devices: int, plan: RoundPlan, rounds: int = 0) -> None:
        self.root, self.count = folder, devices
        key = SigningKey.generate()
        first = make_bundle({TENSOR: np.zeros(devices, np.float32)}, 1, key)
        folder.mkdir(exist_ok=True)
        init_server(
            folder / "server", first, plan=plan, bundle_key=key,
            opener=lambda data: open_bundle(data, (key.verify_key,)),
        )  # fmt: skip
        self.key, self.plan = key, plan
        self.server = MortalServer(folder / "server", folder / "server.log", rounds)
        self.outcomes: list[tuple[int, Outcome, str]] = []
        self.ids: list[str] = []

    def enrol(self, address: str = "") -> None:
        """Enrol all devices; the server has to listen."""
        for index, token in enumerate(make_tokens(self.root / "server", self.count)):
            identity = enrol_device(
                address or self.server.address,
                token,
                folder_of(self.root, index),
                "d",
                allow_sealed=self.plan.mode is Mode.SEALED,
            )
            self.ids.append(identity.device_id)

    @contextmanager
    def at_work(
        self,
        indices: Sequence[int] | None = None,
        transports: Mapping[int, httpx.BaseTransport] = MappingProxyType({}),
    ) -> Iterator[None]:
        """These devices (all), each in a thread of its own; a server that is away is tried again."""
        stop = threading.Event()
        chosen = range(self.count) if indices is None else indices
        agents = [(index, agent_of(self.root, index, transports.get(index))) for index in chosen]
        faults: list[BaseException] = []

        def work(index: int, agent: Agent) -> None:
            while not stop.is_set():
                try:
                    turn = agent.run_once(wait_s=1)
                except (EmberError, httpx.HTTPError):
                    stop.wait(0.02)
                except BaseException as error:
                    if not stop.is_set():
                        faults.append(error)
                    return
                else:
                    self.outcomes.append((index, turn.outcome, turn.text))

        threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in agents]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for _, agent in agents:
                agent.close()
            for thread in threads:
                thread.join(30)
        assert not faults, faults

    def rows(self) -> list[RoundRow]:
        """What the server has written down of its rounds."""
        database = Database.in_file(self.root / "server" / "fleet.db")
        try:
            return database.rounds()
        finally:
            database.close()

    def wait_for_rounds(self, count: int, timeout_s: float) -> list[RoundRow]:
        """Wait until so many rounds are over."""
        self.wait_until(lambda: len(self.over()) >= count, timeout_s)
        return self.over()

    def over(self) -> list[RoundRow]:
        """The rounds that are over."""
        return [row for row in self.rows() if row.phase in ("done", "failed")]

    def wait_until(self, done: Callable[[], bool], timeout_s: float) -> None:
        """Wait for something that the server writes down."""
        end = time.monotonic() + timeout_s
        while not done():
            log = self.server.log
            assert time.monotonic() < end, f"{self.rows()[-3:]}\n{log.read_text('utf-8')[-3000:]}"
            time.sleep(0.03)

    def contributors(self, version: int) -> dict[int, float]:
        """How often each device is in the step from the model before to this one."""
        new, old = self._tensor(version), self._tensor(version - 1)
        row = next(row for row in self.rows() if row.phase == "done" and row.model_version == version - 1)
        plan = UpdatePlan.for_model({TENSOR: np.zeros(1, np.float32)}, [TENSOR], BITS, CLIP, 0.0)
        moved = (new.astype(np.float64) - old) * row.accepted / (MARK * plan.step(plan.tensors[0]))
        return {index: round(float(value), 3) for index, value in enumerate(moved) if abs(value) > 1e-3}

    def check_models(self) -> int:
        """Every model is the one before plus each contributor exactly once; how many rounds are done."""
        done = [row for row in self.rows() if row.phase == "done"]
        for row in done:
            found = self.contributors(row.model_version + 1)
            counted = {self.ids[index] for index in found}
            assert set(found.values()) == {1.0}, f"round {row.number}: {found}"
            assert len(counted) == row.accepted, f"round {row.number}: {row.accepted} accepted, {found}"
            assert counted == set(row.cohort) - set(row.dropped), f"round {row.number}"
        return len(done)

    def _tensor(self, version: int) -> Float32:
        data = (self.root / "server" / "models" / f"{version:06d}.ember").read_bytes()
        return open_bundle(data, (self.key.verify_key,)).tensors[TENSOR]
