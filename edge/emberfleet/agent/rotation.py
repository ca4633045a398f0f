"""A device's key is replaced so that, whenever it is stopped, it holds a key that the server knows.

The new key is written beside the old one before the server hears of it, and takes the old one's name, in
one rename, after the server has answered. Stopped in between, the device asks again with the same keys: the
server gives the same answer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from emberfleet.agent.client import ServerClient, UnreachableError
from emberfleet.agent.identity import KEY_FILE, Identity
from emberfleet.core.errors import EnrolmentError
from emberfleet.core.files import flush_folder, storage_errors
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.signing import SigningKey

log = logging.getLogger(__name__)
NEXT_KEY_FILE: Final = "device.key.next"


def finish_rotation(folder: Path) -> None:
    """Finish a change of the key that was begun, where the server can be asked and has time for it."""
    if not (folder / NEXT_KEY_FILE).exists():
        return
    try:
        rotate_key(folder)
    except UnreachableError as error:
        log.warning("the change of this device's key is not finished: %s", error)
    except RefusedError as error:
        if error.reason is not Reason.IN_ROUND:
            raise
        log.info("the change of this device's key waits until its round is over")


def rotate_key(folder: Path, connect: Callable[[Identity], ServerClient] = ServerClient.of) -> Identity:
    """Replace an enrolled device's key, or finish what was begun.

    Raises:
        RefusedError: The device is in a round, or shut out; nothing changes.
        UnreachableError: Whether the server knows the new key is not known: do it again.
        EnrolmentError: The answer is about another key.
    """
    identity = Identity.load(folder)
    beside = folder / NEXT_KEY_FILE
    if beside.exists():
        new = SigningKey.load(beside)
    else:
        new = SigningKey.generate()
        new.save(beside)
    client = connect(identity)
    try:
        changed = client.change_key(new)
    finally:
        client.close()
    with storage_errors("replace", folder / KEY_FILE):
        os.replace(beside, folder / KEY_FILE)
        flush_folder(folder)
    found = Identity.load(folder)
    if changed.device_id != found.device_id:
        raise EnrolmentError("the server's answer is about another device's key")
    found.save(folder)
    return found
