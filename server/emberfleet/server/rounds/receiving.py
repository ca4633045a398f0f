"""An upload on its way into the round: its length and header, and what can be checked of its values.

Runs in worker threads: nothing here touches the round's state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from emberfleet.core.arrays import Array
from emberfleet.core.digest import sha256_hex
from emberfleet.core.files import read_limited
from emberfleet.core.messages import SEAL_INFO, Upload, max_upload_bytes
from emberfleet.core.offers import Mode
from emberfleet.core.sealing import OVERHEAD_BYTES, SealingKey
from emberfleet.core.secure.answers import MaskedUpdate, max_masked_bytes
from emberfleet.core.secure.masking import check_masked
from emberfleet.server.aggregate.checks import check_update
from emberfleet.server.aggregate.stored import UpdateFile
from emberfleet.server.rounds.collecting import check_header
from emberfleet.server.rounds.state import Round


@dataclass(frozen=True, slots=True)
class OpenedUpload:
    """What was found in an upload.

    Attributes:
        digest: SHA-256 of all of it.
        header: Its header's bytes: what is stored of it as a message.
        values: Of a sealed one; a masked one says nothing, and stays in its file.
    """

    round: Round = field(repr=False)
    digest: str
    header: bytes
    values: Array | None = field(repr=False)

    def keep(self, device_id: str, path: Path) -> None:
        """Write the values of a sealed update where the aggregation reads them."""
        if self.values is not None:
            UpdateFile(path, self.round.cohort, self.round.terms.update).write(device_id, self.values)


def upload_limit(round_: Round) -> int:
    """The largest upload of a round."""
    if round_.mode is Mode.SEALED:
        return max_upload_bytes(round_.terms.update, OVERHEAD_BYTES)
    return max_masked_bytes(round_.known_group.layout.size_bytes)


def open_upload(path: Path, device_id: str, round_: Round, key: SealingKey | None) -> OpenedUpload:
    """Read a finished upload and check all that one update alone can show.

    Raises:
        RefusedError: It names another round, device, model or group; or what `check_update` refuses.
        FormatError, ShapeError, SealError: Not an update of this round.
    """
    body = read_limited(path, upload_limit(round_))
    digest = sha256_hex(body)
    if key is None:
        masked = MaskedUpdate.decode(body)
        check_header(round_, device_id, masked.header)
        check_masked(masked.packed, round_.known_group.layout)
        return OpenedUpload(round_, digest, masked.header.encode(), None)
    upload = Upload.decode(body)
    check_header(round_, device_id, upload.header)
    payload = key.open(upload.sealed, SEAL_INFO, upload.associated_data)
    plan = round_.plan
    values = check_update(
        payload,
        upload.header,
        round_.terms.update,
        norm_bound=plan.norm_bound,
        weight_bound=plan.weight_bound,
    )
    return OpenedUpload(round_, digest, upload.associated_data, values)
