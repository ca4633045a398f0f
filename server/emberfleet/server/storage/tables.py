"""The tables of the fleet, in types that SQLite and PostgreSQL both have."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

SCHEMA_VERSION: Final = 2
metadata = sa.MetaData()

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("public_key", sa.LargeBinary(32), nullable=False),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("enrolled_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
    sa.Column("replaced_by", sa.String(32)),
)
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("made_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("used_at", sa.Float),
    sa.Column("device_id", sa.String(32)),
)
nonces = sa.Table(
    "nonces",
    metadata,
    sa.Column("device_id", sa.String(32), primary_key=True),
    sa.Column("nonce", sa.String(64), primary_key=True),
    sa.Column("seen_at", sa.Float, nullable=False, index=True),
    sqlite_with_rowid=False,
)
rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, index=True),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("opened_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("closed_at", sa.Float),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("terms", sa.LargeBinary, nullable=False),
    sa.Column("entered", sa.JSON, nullable=False),
    sa.Column("cohort", sa.JSON, nullable=False),
    sa.Column("survivors", sa.JSON, nullable=False),
    sa.Column("dropped", sa.JSON, nullable=False),
    sa.Column("culprits", sa.JSON, nullable=False),
    sa.Column("accepted", sa.Integer, nullable=False),
    sa.Column("failure", sa.Text, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
)
messages = sa.Table(
    "messages",
    metadata,
    sa.Column("round_id", sa.String(32), primary_key=True),
    sa.Column("device_id", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("accepted_at", sa.Float, nullable=False),
    sqlite_with_rowid=False,
)
models = sa.Table(
    "models",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.Integer, nullable=False),
    sa.Column("published_at", sa.Float, nullable=False),
    sa.Column("round_id", sa.String(32)),
)
