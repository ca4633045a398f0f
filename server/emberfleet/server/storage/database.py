"""The server's database: the only place with SQL, one method for each question or change.

Every method is one transaction, and foreign errors become `StorageError`. A file for each subject: devices,
rounds, models, releases; the tables stand in `tables.py`, the connections in `connections.py`.
"""

from __future__ import annotations

from emberfleet.server.storage.devices import Device, DeviceTables, hash_token
from emberfleet.server.storage.models import ModelTables
from emberfleet.server.storage.releases import ReleaseTables
from emberfleet.server.storage.rounds import RoundRow, RoundSummary, RoundTables, StoredMessage

__all__ = ["Database", "Device", "RoundRow", "RoundSummary", "StoredMessage", "hash_token"]


class Database(DeviceTables, RoundTables, ModelTables, ReleaseTables):
    """Everything that the server keeps in tables."""
