"""What a device keeps of its rounds on disk, so that it goes on after being killed at any point.

`round.json` (mode 600) is the round at hand with its secrets, written before what depends on it is sent;
`round.update` the body of its upload, written before the file says that it is there; `rounds.json` the ids
of rounds that are over, written before the round's file goes. Whatever is half done when the power fails
is done again, or taken back, by `load`.

What needs numpy is imported where a round needs it: a device that waits for work does without.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from emberfleet.core.codec import Fields, encode_json
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import EmberError, FormatError, StorageError
from emberfleet.core.files import PRIVATE_MODE, read_limited, storage_errors, write_atomically, write_private
from emberfleet.core.messages import MAX_SMALL_BYTES, check_round_id

if TYPE_CHECKING:
    from emberfleet.agent.rounds.state import DeviceRound
    from emberfleet.core.arrays import Float32
    from emberfleet.core.updates import UpdatePlan

log = logging.getLogger(__name__)
MAX_BODY_BYTES: Final = 512 << 20
ROUNDS_REMEMBERED: Final = 256
"""Ids of rounds that are over; an older one could be offered again, and would begin with new secrets."""


class RoundStore:
    """The files of a device's rounds, in its folder."""

    def __init__(self, folder: Path) -> None:
        self._state, self._body = folder / "round.json", folder / "round.update"
        self._over = folder / "rounds.json"
        self._residual, self._pending = folder / "residual.safetensors", folder / "residual.pending"

    def load(self) -> DeviceRound | None:
        """The round to go on with; one that is over or cannot be read is cleared away."""
        if not self._state.exists():
            self._clear()
            return None
        from emberfleet.agent.rounds.state import MAX_STATE_BYTES, DeviceRound

        try:
            found = DeviceRound.decode(read_limited(self._state, MAX_STATE_BYTES))
            if found.round_id in self.over():
                raise FormatError("the round is over")
            if found.body_digest:
                self.read_body(found)
        except (FormatError, StorageError) as error:
            log.warning("the round in %s is not gone on with: %s", self._state, error)
            self._clear()
            return None
        return found

    def save(self, round_: DeviceRound) -> None:
        """Write the round down; what depends on it may be sent afterwards."""
        write_private(self._state, round_.encode())

    def save_trained(self, round_: DeviceRound, body: bytes, residual: Float32 | None = None) -> None:
        """Write down the upload, and then the round that it belongs to.

        Args:
            round_: At the stage TRAINED.
            body: Of the upload.
            residual: What the upload keeps back, if the round has error feedback.
        """
        if residual is not None:
            from emberfleet.agent.rounds.feedback import residual_name
            from emberfleet.core.tensors import encode_tensors

            name = residual_name(round_.offer.terms.update)
            write_atomically(self._pending, encode_tensors({name: residual}), PRIVATE_MODE)
        write_atomically(self._body, body, PRIVATE_MODE)
        self.save(round_)

    def read_body(self, round_: DeviceRound) -> bytes:
        """The upload of the round; raises `FormatError` where it is not the one that was made."""
        body = read_limited(self._body, MAX_BODY_BYTES)
        if sha256_hex(body) != round_.body_digest:
            raise FormatError(f"{self._body}: not the update that was made for round {round_.number}")
        return body

    def note_acknowledged(self) -> None:
        """The server has the upload: what it kept back is now what the next round adds."""
        if self._pending.exists():
            with storage_errors("rename", self._pending):
                self._pending.replace(self._residual)

    def residual(self, plan: UpdatePlan) -> Float32 | None:
        """What earlier uploads kept back of these tensors; None where there is nothing, or of others."""
        import numpy as np

        from emberfleet.agent.rounds.feedback import residual_name
        from emberfleet.core.tensors import decode_tensors

        if not self._residual.exists():
            return None
        try:
            found = decode_tensors(read_limited(self._residual, MAX_BODY_BYTES)).get(residual_name(plan))
        except EmberError as error:
            log.warning("what earlier updates kept back is lost: %s", error)
            return None
        if found is None or found.shape != (plan.size,) or found.dtype != np.float32:
            return None
        return found if np.isfinite(found).all() else None

    def end(self, round_: DeviceRound) -> None:
        """The round is over for this device, and is not taken up again.

        Where its id cannot be written down (a full disk) its files go all the same: offered again, it would
        begin with new secrets.
        """
        try:
            ids = [*(known for known in self.over() if known != round_.round_id), round_.round_id]
            write_private(self._over, encode_json({"over": ids[-ROUNDS_REMEMBERED:]}) + b"\n")
        finally:
            self._clear()

    def over(self) -> tuple[str, ...]:
        """Ids of rounds that this device has finished or left, the latest last."""
        if not self._over.exists():
            return ()
        fields = Fields.parse(read_limited(self._over, MAX_SMALL_BYTES), self._over.name)
        listed = fields.items("over", ROUNDS_REMEMBERED)
        fields.done()
        if not all(isinstance(item, str) for item in listed):
            raise fields.wrong("over", "a list of round ids")
        return tuple(check_round_id(item) for item in listed)

    def _clear(self) -> None:
        # Secrets first: without them the rest is of no use to anybody.
        for path in (self._state, self._body, self._pending):
            with storage_errors("remove", path):
                path.unlink(missing_ok=True)
