"""Who is enrolled, by which tokens, and which requests were made before."""

from __future__ import annotations

import hashlib
import hmac
import logging
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from emberfleet.core.errors import EnrolmentError, StorageError
from emberfleet.server.storage.connections import Connections
from emberfleet.server.storage.tables import devices, nonces, tokens

log = logging.getLogger(__name__)
MAX_NONCES_IN_MEMORY: Final = 100_000
_DEVICE: Final = sa.select(devices).where(devices.c.id == sa.bindparam("device_id"))
_ADD_NONCE: Final = sa.insert(nonces)


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled device.

    Attributes:
        replaced_by: The name it has since it changed its key; it is shut out under this one.
    """

    id: str
    public_key: bytes
    name: str
    enrolled_at: float
    revoked_at: float | None
    replaced_by: str | None = None


def hash_token(token: str) -> str:
    """All that is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class DeviceTables(Connections):
    """Devices, tokens and nonces."""

    def __init__(self, url: str | sa.URL) -> None:
        super().__init__(url)
        self._unwritten: dict[tuple[str, str], float] = {}

    def add_token(self, token: str, now: float, lifetime_s: float) -> None:
        """Remember the hash of a fresh one-time token."""
        with self._transaction() as connection:
            row = {"hash": hash_token(token), "made_at": now, "expires_at": now + lifetime_s}
            connection.execute(sa.insert(tokens).values(row))

    def enrol(self, token: str, device: Device, now: float) -> None:
        """Spend a token and add the device, both or neither.

        A device that sends its request again, because the answer was lost, is let in again by the
        token it spent.

        Raises:
            EnrolmentError: No such token, expired, or spent by another device.
        """
        wanted = hash_token(token)
        with self._transaction() as connection:
            row = connection.execute(sa.select(tokens).where(tokens.c.hash == wanted)).first()
            found = "" if row is None else str(row.hash)
            if row is None or not hmac.compare_digest(found, wanted):
                raise EnrolmentError("no such enrolment token")
            if row.used_at is not None and row.device_id == device.id:
                return
            if row.used_at is not None or row.expires_at < now:
                raise EnrolmentError("the enrolment token was used already or has expired")
            spent = connection.execute(
                sa.update(tokens)
                .where(tokens.c.hash == wanted, tokens.c.used_at.is_(None))
                .values(used_at=now, device_id=device.id)
            )
            if spent.rowcount != 1:
                raise EnrolmentError("the enrolment token was used already or has expired")
            if connection.execute(_DEVICE, {"device_id": device.id}).first() is not None:
                raise EnrolmentError("this device's key is enrolled already")
            connection.execute(
                sa.insert(devices).values(
                    id=device.id,
                    public_key=device.public_key,
                    name=device.name,
                    enrolled_at=device.enrolled_at,
                )
            )

    def device(self, device_id: str) -> Device | None:
        """A device by its id, revoked or not."""
        with self._transaction(flushed=False) as connection:
            row = connection.execute(_DEVICE, {"device_id": device_id}).first()
        return None if row is None else Device(*row)

    def devices(self) -> list[Device]:
        """All devices, first enrolled first."""
        with self._transaction(flushed=False) as connection:
            rows = connection.execute(sa.select(devices).order_by(devices.c.enrolled_at, devices.c.id)).all()
        return [Device(*row) for row in rows]

    def revoke(self, device_id: str, now: float) -> bool:
        """Shut a device out, by whichever of its names; False where there is none of that name."""
        found = False
        with self._transaction() as connection:
            following: str | None = device_id
            while following is not None:
                row = connection.execute(_DEVICE, {"device_id": following}).first()
                if row is None:
                    break
                found = True
                if row.revoked_at is None:
                    statement = sa.update(devices).where(devices.c.id == following)
                    connection.execute(statement.values(revoked_at=now))
                following = row.replaced_by
        return found

    def revoked(self) -> frozenset[str]:
        """All names that are shut out."""
        with self._transaction(flushed=False) as connection:
            rows = connection.execute(sa.select(devices.c.id).where(devices.c.revoked_at.is_not(None)))
            return frozenset(row.id for row in rows)

    def replace_key(self, old_id: str, new_id: str, public_key: bytes, now: float) -> bool:
        """Let a device in under a new key and shut it out under the old one, both or neither.

        Returns:
            False where the device is shut out, other than by this very change.

        Raises:
            EnrolmentError: The new key is enrolled already.
        """
        with self._transaction() as connection:
            old = connection.execute(_DEVICE, {"device_id": old_id}).first()
            if old is None or old.revoked_at is not None:
                return old is not None and old.replaced_by == new_id
            if connection.execute(_DEVICE, {"device_id": new_id}).first() is not None:
                raise EnrolmentError("this key is enrolled already")
            new = {"id": new_id, "public_key": public_key, "name": old.name, "enrolled_at": now}
            connection.execute(sa.insert(devices).values(new))
            statement = sa.update(devices).where(devices.c.id == old_id)
            connection.execute(statement.values(revoked_at=now, replaced_by=new_id))
        return True

    def spend_nonce(self, device_id: str, nonce: str, now: float) -> bool:
        """Remember a nonce; False where the device has used it before.

        With a full disk it is remembered in memory: devices still get the model.
        """
        if (device_id, nonce) in self._unwritten:
            return False
        try:
            with self._transaction(flushed=False) as connection:
                connection.execute(_ADD_NONCE, {"device_id": device_id, "nonce": nonce, "seen_at": now})
        except StorageError as error:
            if isinstance(error.__cause__, IntegrityError):
                return False
            if len(self._unwritten) >= MAX_NONCES_IN_MEMORY:
                raise
            log.warning("a nonce is kept in memory alone: %s", error)
            self._unwritten[device_id, nonce] = now
        return True

    def forget_nonces(self, before: float) -> None:
        """Drop nonces too old to be replayed."""
        for key in [key for key, seen_at in self._unwritten.items() if seen_at < before]:
            del self._unwritten[key]
        with self._transaction(flushed=False) as connection:
            connection.execute(sa.delete(nonces).where(nonces.c.seen_at < before))
