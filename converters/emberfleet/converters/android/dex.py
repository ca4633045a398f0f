"""The sample app's classes, written in smali: an assembler for Android's virtual machine.

Debian has no compiler from Java to that machine, and an SDK's has no other use here. The classes say what
the Java classes of the AAR say; the tests compare what they hold and call, and run both.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from emberfleet.converters.android.classes import PINNED, Pins
from emberfleet.converters.android.sources import files_below, source_folder
from emberfleet.converters.android.tools import find_tool, run_tool

MIN_SDK: Final = 26


def build_dex(pins: Pins) -> bytes:
    """Assemble ``classes.dex``; the same smali gives the same bytes.

    Raises:
        ConversionError: smali is missing, or refused.
    """
    sources = source_folder() / "android"
    smali = find_tool("smali", "smali (Debian: libsmali-java)")
    with tempfile.TemporaryDirectory(prefix="emberfleet-") as name:
        folder = Path(name)
        pinned, out = folder / f"{PINNED}.smali", folder / "classes.dex"
        pinned.parent.mkdir(parents=True)
        pinned.write_text(pins.fill(sources / "templates" / "Pinned.smali"))
        texts = [*files_below(sources / "smali", ".smali"), pinned]
        run_tool([smali, "assemble", "--api", str(MIN_SDK), "-o", out, *texts], folder)
        return out.read_bytes()
