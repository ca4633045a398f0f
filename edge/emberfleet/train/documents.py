"""The JSON files that training leaves beside its tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from emberfleet.core.errors import FormatError
from emberfleet.core.files import read_limited

MAX_JSON_BYTES = 16 << 20


def read_document(path: Path, version: int) -> dict[str, Any]:
    """Read a JSON object whose ``format`` is `version`.

    Raises:
        FormatError: too large, not JSON, or of another format.
        StorageError: not there, or not readable.
    """
    try:
        document = json.loads(read_limited(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != version:
        raise FormatError(f"{path}: expected a JSON object with format {version}")
    return document
