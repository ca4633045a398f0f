"""The device in the fleet: asks for work, keeps the model up to date, retrains, sends its update."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from emberfleet.agent.client import ServerClient
from emberfleet.agent.identity import Identity
from emberfleet.agent.judging import Evaluate
from emberfleet.agent.models import CheckBundle, ModelStore
from emberfleet.agent.releases import ReleaseList
from emberfleet.agent.samples import HELD_OUT_SHARE, Samples, SampleStore
from emberfleet.agent.store import RoundStore
from emberfleet.agent.updating import ModelUpdates
from emberfleet.core.codec import Scalar
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import EmberError, RoundError
from emberfleet.core.files import read_limited
from emberfleet.core.messages import MAX_BUNDLE_BYTES, ModelInfo, Reason, RefusedError

if TYPE_CHECKING:
    from emberfleet.agent.rounds.training import Retrained
    from emberfleet.agent.taking_part import Ended, TakingPart
    from emberfleet.core.offers import RoundOffer

log = logging.getLogger(__name__)
WAIT_S: Final = 20
SETTLING_WAIT_S: Final = 2
"""How long a device that did something waits for more, before it gives back the memory that it took."""
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
    """The outcome of `Agent.run_once`, with the facts worth showing.

    Attributes:
        retry_after_s: When the server wants to be asked again; 0 for at once.
    """

    outcome: Outcome
    model_version: int
    round_number: int = 0
    text: str = ""
    retry_after_s: float = 0.0


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
        self._rounds = RoundStore(folder)
        self._interrupted = True
        self._stop = threading.Event()

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
        """Ask for work once and do it: fetch a model, or take part in a round, or nothing.

        A round that an earlier turn or an earlier start was torn out of is gone on with first.
        """
        if self._interrupted:
            turn = self._resume()
            if turn is not None:
                return turn
        reply = self._client.ask_work(self.models.version(), wait_s)
        if self.fetch_model(reply.model.version):
            return Turn(Outcome.NEW_MODEL, self.models.version())
        if reply.offer is None:
            spoken_of = reply.model.version
            text = f"no signed model {spoken_of}" if spoken_of > self.models.version() else ""
            return Turn(Outcome.IDLE, self.models.version(), text=text, retry_after_s=reply.retry_after_s)
        return self._join(reply.offer)

    def run_forever(
        self,
        stop: threading.Event,
        on_turn: Callable[[Turn], None] | None = None,
        on_rest: Callable[[], None] | None = None,
    ) -> None:
        """Take turns until `stop` is set; a server that cannot be reached is tried again.

        Args:
            stop: Ends it.
            on_turn: Told of every turn.
            on_rest: Called when there is nothing to do after something was done.

        Raises:
            RefusedError: The server shut this device out, or does not know it.
        """
        self._stop, worked = stop, False
        while not stop.is_set():
            try:
                turn = self.run_once(SETTLING_WAIT_S if worked else WAIT_S)
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
                if worked and turn.outcome is Outcome.IDLE and on_rest is not None:
                    on_rest()
                worked = turn.outcome is not Outcome.IDLE
                if turn.retry_after_s:
                    stop.wait(turn.retry_after_s)
                elif turn.outcome is Outcome.LEFT or (turn.outcome is Outcome.IDLE and turn.text):
                    stop.wait(PAUSE_S)

    def _join(self, envelope: bytes) -> Turn:
        """Take part in the round of an offer, or tell the server that this device will not.

        Raises:
            SignatureError, FormatError: Not an offer of the server this device enrolled with.
        """
        from emberfleet.agent.rounds.checks import CheckError
        from emberfleet.agent.rounds.considering import Standing, consider_offer
        from emberfleet.core.offers import RoundOffer

        identity = self.identity
        offer = RoundOffer.open(envelope, identity.server_key)
        standing = Standing(
            identity.device_id,
            self._model_at_hand(),
            self._rounds.over(),
            identity.minimum_cohort,
            identity.allow_sealed,
        )
        try:
            consider_offer(offer, standing)
        except CheckError as error:
            log.warning("%s", error)
            with contextlib.suppress(EmberError):
                self._client.decline(offer.terms.round_id)
            return Turn(Outcome.LEFT, offer.terms.model.version, offer.terms.number, str(error))
        self._interrupted = True
        return self._ended(offer, self._taking_part().take(offer))

    def _resume(self) -> Turn | None:
        round_ = self._rounds.load()
        if round_ is None:
            self._interrupted = False
            return None
        return self._ended(round_.offer, self._taking_part().go_on(round_))

    def _ended(self, offer: RoundOffer, ended: Ended) -> Turn:
        self._interrupted = False
        outcome = Outcome.SENT if ended.sent else Outcome.LEFT
        terms = offer.terms
        return Turn(outcome, terms.model.version, terms.number, ended.text, ended.retry_after_s)

    def _taking_part(self) -> TakingPart:
        from emberfleet.agent.rounds.secure import Party
        from emberfleet.agent.taking_part import TakingPart

        party = Party(self.identity.key, self.identity.minimum_cohort)
        return TakingPart(self._client, self._rounds, party, self._train, self._clock, stop=self._stop)

    def _train(self, offer: RoundOffer) -> Retrained:
        from emberfleet.agent.rounds.checks import Check, CheckError
        from emberfleet.agent.rounds.training import seed_of

        bundle = self.models.path()
        if bundle is None or self._model_at_hand() != offer.terms.model:
            raise CheckError(Check.OTHER_MODEL, offer.terms.number)
        return self._retrain(bundle, self.samples.load(), offer.terms.training, seed_of(offer))

    def _model_at_hand(self) -> ModelInfo:
        """The bundle at hand, as an offer names it."""
        path = self.models.path()
        if path is None:
            raise RoundError("no model is here: fetch one before taking part in a round")
        data = read_limited(path, MAX_BUNDLE_BYTES)
        return ModelInfo(self.models.version(), sha256_hex(data), len(data))
