"""Takes a device through a round: sends what the round's value says, waits for what comes, writes it down.

Every step begins at the stage that `RoundStore` holds, so a device that was killed goes on there; what it
sends again has the same bytes. The server's word that the round is over ends it here too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emberfleet.agent.client import UnreachableError
from emberfleet.agent.rounds import sealed, secure
from emberfleet.agent.rounds.feedback import keeps_residual, residual_of
from emberfleet.agent.rounds.state import DeviceRound, Secrets, Stage
from emberfleet.agent.rounds.training import change_of, check_samples
from emberfleet.core.errors import EmberError, RoundError, StorageError
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.offers import Mode, RoundOffer
from emberfleet.core.secure.answers import Confirmations, Survivors
from emberfleet.core.secure.messages import Mailbox, Roster

if TYPE_CHECKING:
    from emberfleet.agent.client import ServerClient
    from emberfleet.agent.rounds.training import Retrained
    from emberfleet.agent.store import RoundStore

log = logging.getLogger(__name__)
WAIT_S: Final = 20
LEAST_PAUSE_S: Final = 0.25
"""Between two questions that a server answers at once with nothing."""
NOT_OF_THE_ROUND: Final = frozenset(
    {Reason.REVOKED, Reason.NOT_ENROLLED, Reason.CLOCK, Reason.REPLAYED, Reason.BAD_SIGNATURE}
)
"""Refusals that say nothing about the round: it can be gone on with once their cause is gone."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a round ended for this device.

    Attributes:
        sent: Whether the update was taken and, in a secure round, the shares were given.
        text: Why it was left.
        retry_after_s: When the server wants to be asked for work again; 0 for soon.
    """

    sent: bool
    text: str = ""
    retry_after_s: float = 0.0


class StoppedError(EmberError):
    """The device is asked to stop while it waits; the round is gone on with at the next start."""


class TakingPart:
    """One device in its rounds."""

    def __init__(
        self,
        client: ServerClient,
        store: RoundStore,
        party: secure.Party,
        train: Callable[[RoundOffer], Retrained],
        clock: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = os.urandom,
        stop: threading.Event | None = None,
    ) -> None:
        """Prepare.

        Args:
            client: Talks to the server.
            store: Where the round at hand is kept.
            party: The device's key and the fewest updates it accepts in a sum.
            train: Retrains the model at hand for an offer.
            clock: Seconds, for deadlines on this device.
            random_bytes: Where the secrets of a round come from.
            stop: Once set, a wait ends with `StoppedError`.
        """
        self._client, self._store, self._party, self._train = client, store, party, train
        self._clock, self._random_bytes = clock, random_bytes
        self._stop = stop or threading.Event()

    def take(self, offer: RoundOffer) -> Ended:
        """Take an offer that has passed `consider_offer`, and go through its round; raises as `go_on`."""
        if offer.terms.mode is Mode.SEALED:
            round_ = sealed.take_offer(offer)
        else:
            round_ = secure.join_round(offer, Secrets.draw(self._random_bytes))
        self._store.save(round_)
        return self.go_on(round_)

    def go_on(self, round_: DeviceRound) -> Ended:
        """Go through a round from where it is, to its end for this device.

        Raises:
            RefusedError: The server does not listen to this device at all.
            UnreachableError, StorageError, StoppedError: The round can be gone on with later.
        """
        try:
            while round_.stage is not Stage.DISCLOSED:
                after = self._step(round_)
                if after is None:
                    self._store.end(round_)
                    return Ended(sent=True)
                round_ = after
            self._client.send_message(round_.round_id, "disclosure", round_.disclosure)
        except RefusedError as error:
            if error.reason in NOT_OF_THE_ROUND:
                raise
            if round_.stage is Stage.DISCLOSED and error.reason is Reason.LATE:
                # Enough others gave their shares: the sum holds this update all the same.
                self._store.end(round_)
                return Ended(sent=True)
            return self._leave(round_, error, decline=False)
        except (UnreachableError, StorageError, StoppedError):
            raise
        except EmberError as error:
            return self._leave(round_, error, decline=round_.stage in _MAY_DECLINE)
        self._store.end(round_)
        return Ended(sent=True)

    def _step(self, round_: DeviceRound) -> DeviceRound | None:
        """One stage further, written down; None where a sealed round is over."""
        client, store, round_id = self._client, self._store, round_.round_id
        match round_.stage:
            case Stage.JOINED:
                client.send_message(round_id, "keys", secure.advert_of(round_, self._party).encode())
                roster = Roster.decode(self._wait_for(round_id, "roster"))
                after = secure.take_roster(round_, roster, self._party)
            case Stage.SHARED:
                client.send_message(round_id, "shares", round_.shares)
                members = len(round_.graph.roster.members)
                mailbox = Mailbox.decode(self._wait_for(round_id, "shares"), members)
                after, left_out = secure.take_mailbox(round_, mailbox, self._party)
                for device_id, why in left_out:
                    log.warning("round %d: no shares of device %s: %s", round_.number, device_id, why)
            case Stage.TAKEN | Stage.GROUPED:
                return self._train_and_keep(round_)
            case Stage.TRAINED:
                client.send_update(round_id, store.read_body(round_))
                store.note_acknowledged()
                if round_.offer.terms.mode is Mode.SEALED:
                    return None
                members = len(round_.graph.roster.members)
                survivors = Survivors.decode(self._wait_for(round_id, "survivors"), members)
                after = secure.take_survivors(round_, survivors, self._party)
            case _:
                signed = secure.confirmation_of(round_, self._party)
                client.send_message(round_id, "confirmation", signed.encode())
                members = len(round_.graph.roster.members)
                confirmed = Confirmations.decode(self._wait_for(round_id, "confirmations"), members)
                after = secure.take_confirmations(round_, confirmed)
        store.save(after)
        return after

    def _train_and_keep(self, round_: DeviceRound) -> DeviceRound:
        offer, residual = round_.offer, None
        deadline = self._clock() + offer.deadline_s
        with self._heartbeat(offer):
            try:
                result = self._train(offer)
            except EmberError:
                raise
            except BaseException as error:
                self._leave(round_, error, decline=True)
                raise
            if self._clock() >= deadline:
                raise RoundError(f"round {round_.number}: training ended after the deadline")
            if offer.terms.mode is Mode.SEALED:
                body = sealed.seal_change(round_, result)
                after = sealed.keep_sealed(round_, body)
            else:
                check_samples(result, round_.number)
                change = change_of(result, offer.terms.update)
                if keeps_residual(offer.terms):
                    kept_back = self._store.residual(offer.terms.update)
                    if kept_back is not None:
                        change += kept_back
                    seed = secure.rounding_of(round_)
                    residual = residual_of(change, result.sample_count, round_.group.layout, seed)
                body = secure.mask_change(round_, change, result.sample_count)
                after = secure.keep_masked(round_, body)
            self._store.save_trained(after, body, residual)
        return after

    def _wait_for(self, round_id: str, name: str) -> bytes:
        while not self._stop.is_set():
            asked = self._clock()
            found = self._client.read_message(round_id, name, WAIT_S)
            if found:
                return found
            if self._clock() - asked < LEAST_PAUSE_S:
                self._stop.wait(LEAST_PAUSE_S)
        raise StoppedError(f"stopped while waiting for the {name} of a round")

    def _leave(self, round_: DeviceRound, error: BaseException, *, decline: bool) -> Ended:
        log.warning("round %d is left: %s", round_.number, error)
        self._store.end(round_)
        if decline:
            with contextlib.suppress(RefusedError, UnreachableError):
                self._client.decline(round_.round_id)
        wanted_s = error.retry_after_s if isinstance(error, RefusedError) else None
        return Ended(sent=False, text=str(error), retry_after_s=wanted_s or 0.0)

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


_MAY_DECLINE: Final = frozenset({Stage.TAKEN, Stage.JOINED, Stage.SHARED, Stage.GROUPED})
"""Before its update the round does not depend on the device."""
