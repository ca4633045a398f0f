"""The device in the fleet: asks for work, keeps the model up to date, retrains, sends its update."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from emberfleet.agent.client import ServerClient, UnreachableError
from emberfleet.agent.identity import Identity
from emberfleet.agent.judging import Evaluate
from emberfleet.agent.models import CheckBundle, ModelStore
from emberfleet.agent.releases import ReleaseList
from emberfleet.agent.rounds import (
    DeviceRound,
    Retrained,
    consider_offer,
    finish_training,
    leave_round,
    note_sent,
    seed_of,
)
from emberfleet.agent.samples import HELD_OUT_SHARE, Samples, SampleStore
from emberfleet.agent.updating import ModelUpdates
from emberfleet.core.codec import Scalar
from emberfleet.core.errors import EmberError
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.offers import RoundOffer

log = logging.getLogger(__name__)
WAIT_S: Final = 20
PAUSE_S: Final = 5.0


class Retrain(Protocol):
    """Trains the model in a bundle on the device's samples."""

    def __call__(
        self, bundle: Path, samples: Samples, training: Mapping[str, Scalar], seed: int
    ) -> Retrained:
        """Return tensors before and after; raise `EmberError` where no update should be sent."""


class Outcome(StrEnum):
    """What one turn of the agent came to."""

    IDLE = "idle"
    NEW_MODEL = "new_model"
    SENT = "sent"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Turn:
    """The outcome of `Agent.run_once`, with the facts worth showing."""

    outcome: Outcome
    model_version: int
    round_number: int = 0
    text: str = ""


class Agent:
    """One enrolled device at work."""

    def __init__(
        self,
        folder: Path,
        retrain: Retrain,
        check_bundle: CheckBundle,
        *,
        client: ServerClient | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_model: Callable[[Path], None] | None = None,
        held_out: float = HELD_OUT_SHARE,
        evaluate: Evaluate | None = None,
    ) -> None:
        """Prepare an enrolled device.

        Args:
            folder: The device's, as `enrol_device` left it.
            retrain: Trains.
            check_bundle: Verifies bundles with the keys in `Identity.trusted`.
            client: Talks to the server; made from the identity when not given.
            clock: Seconds, for deadlines on this device.
            on_model: Told of every bundle that serves from then on.
            held_out: Share of the samples that are kept from training, to judge a model by.
            evaluate: Judges a new model by them before it serves; None: every new model serves.
        """
        self.identity = Identity.load(folder)
        self.models = ModelStore(folder, check_bundle)
        self.samples = SampleStore(folder / "samples", held_out)
        self._retrain, self._clock = retrain, clock
        self._client = client or ServerClient.of(self.identity)
        releases = ReleaseList(
            folder / "tuf", self.identity.root, self.identity.device_id, self._client.metadata
        )
        self._updates = ModelUpdates(self.models, releases, self._client, self.samples, evaluate, on_model)
        self._last_sent = ""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def fetch_model(self, hint: int = 0) -> bool:
        """Bring the newest model for this device here; False where it is here already.

        Args:
            hint: The version that the server speaks of; what counts is what it has signed.

        Raises:
            SignatureError: Untrusted, out of date, or older than what this device has seen.
            FormatError: Damaged.
        """
        return self._updates.bring(hint)

    def run_once(self, wait_s: int = WAIT_S) -> Turn:
        """Ask for work once and do it: fetch a model, or take part in a round, or nothing."""
        reply = self._client.ask_work(self.models.version(), wait_s)
        if self.fetch_model(reply.model.version):
            return Turn(Outcome.NEW_MODEL, self.models.version())
        if reply.offer is None:
            spoken_of = reply.model.version
            text = f"no signed model {spoken_of}" if spoken_of > self.models.version() else ""
            return Turn(Outcome.IDLE, self.models.version(), text=text)
        offer = RoundOffer.open(reply.offer, self.identity.server_key)
        version = self.models.version()
        round_ = consider_offer(offer, self.identity.device_id, version, self._last_sent, self._clock())
        return self._take_part(round_)

    def run_forever(self, stop: threading.Event, on_turn: Callable[[Turn], None] | None = None) -> None:
        """Take turns until `stop` is set; a server that cannot be reached is tried again.

        Raises:
            RefusedError: The server shut this device out, or does not know it.
        """
        while not stop.is_set():
            try:
                turn = self.run_once()
            except RefusedError as error:
                if error.reason in (Reason.REVOKED, Reason.NOT_ENROLLED):
                    raise
                log.warning("refused: %s", error)
                stop.wait(error.retry_after_s or PAUSE_S)
            except EmberError as error:
                log.warning("%s", error)
                stop.wait(PAUSE_S)
            else:
                if on_turn is not None:
                    on_turn(turn)
                if turn.outcome is Outcome.LEFT or (turn.outcome is Outcome.IDLE and turn.text):
                    stop.wait(PAUSE_S)

    def _take_part(self, round_: DeviceRound) -> Turn:
        offer, terms = round_.offer, round_.offer.terms
        bundle = self.models.path()
        assert bundle is not None
        left = Turn(Outcome.LEFT, terms.model.version, terms.number)
        try:
            with self._heartbeat(offer):
                result = self._retrain(bundle, self.samples.load(), terms.training, seed_of(offer))
            round_ = finish_training(round_, result, self._clock())
        except EmberError as error:
            log.warning("round %d: no update is sent: %s", terms.number, error)
            self._decline(leave_round(round_))
            return replace(left, text=str(error))
        except BaseException:
            self._decline(leave_round(round_))
            raise
        try:
            self._client.send_update(terms.round_id, round_.body)
        except RefusedError as error:
            log.warning("round %d: the update was refused: %s", terms.number, error)
            self._last_sent = terms.round_id
            return replace(left, text=str(error))
        note_sent(round_)
        self._last_sent = terms.round_id
        return replace(left, outcome=Outcome.SENT)

    def _decline(self, round_: DeviceRound) -> None:
        with contextlib.suppress(RefusedError, UnreachableError):
            self._client.decline(round_.offer.terms.round_id)

    @contextlib.contextmanager
    def _heartbeat(self, offer: RoundOffer) -> Iterator[None]:
        """Tell the server now and then that training goes on, from a thread beside it."""
        if not offer.lease_s:
            yield
            return
        done = threading.Event()

        def beat() -> None:
            while not done.wait(offer.lease_s / 3):
                try:
                    self._client.alive(offer.terms.round_id)
                except RefusedError:
                    return
                except EmberError as error:
                    log.info("the server did not hear that training goes on: %s", error)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
