"""Every reader of bytes from outside, by family; `test_parsers` proves that none is missing.

A family's number of inputs is 100,000; of those whose readers cost a signature, a decompression or a file for
each input it is smaller, and stands here.
"""

from __future__ import annotations

from typing import Final

from tests.fuzz.fuzzing import Family
from tests.fuzz.targets import files, messages, secure

FAMILIES: Final = (
    Family("messages", messages.messages),
    Family("offers", messages.offers),
    Family("updates", messages.updates),
    Family("requests", messages.requests),
    Family("words", messages.words),
    Family("settings", messages.settings),
    Family("secure messages", secure.messages),
    Family("secure values", secure.values),
    Family("tensors", files.tensors),
    Family("containers", files.containers),
    Family("release entries", files.release_entries),
    Family("networks", files.networks, 50_000),
    Family("device states", secure.device_states),
    Family("bundles", files.bundles, 10_000),
    Family("envelopes", messages.envelopes, 20_000),
    Family("keys", messages.keys),
    Family("refusals", messages.refusals),
    Family("secure proofs", secure.proofs),
    Family("server steps", secure.server_steps),
    Family("device steps", secure.device_steps),
    Family("kept files", files.kept_files, 3_000),
    Family("uploads", secure.uploads, 3_000),
    Family("wire files", files.wires, 1_000),
    Family("release lists", files.release_lists, 500),
)
