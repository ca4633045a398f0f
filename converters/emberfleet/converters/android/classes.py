"""The Java half of an AAR: the classes of ``dev.emberfleet``, and whom they trust."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emberfleet.converters.android.packing import Entry, pack
from emberfleet.converters.android.sources import files_below, source_folder
from emberfleet.converters.android.tools import find_javac, run_tool
from emberfleet.core.digest import sha256_hex
from emberfleet.core.signing import VerifyKey

PINNED: Final = "dev/emberfleet/Pinned"
# Android's build tools read classes of Java 8 whatever their age; newer compilers warn that it is old.
COMPILE: Final = ("--release", "8", "-Xlint:-options", "-encoding", "UTF-8", "-g:source,lines")


@dataclass(frozen=True, slots=True)
class Pins:
    """What is made into the code, where an asset that somebody replaces cannot reach it.

    Attributes:
        key: Who must have signed the bundle.
        tflite: SHA-256 of the .tflite.
    """

    key: VerifyKey
    tflite: bytes

    @staticmethod
    def of(key: VerifyKey, tflite: bytes) -> Pins:
        """For a key and the bytes of a .tflite."""
        return Pins(key, bytes.fromhex(sha256_hex(tflite)))

    @property
    def values(self) -> dict[str, str]:
        """Placeholder in the templates -> text, which is base64 and so needs no escapes."""
        return {"@KEY@": self.key.text, "@TFLITE@": base64.b64encode(self.tflite).decode()}

    def fill(self, template: Path) -> str:
        """A source with the placeholders replaced."""
        text = template.read_text()
        for name, value in self.values.items():
            text = text.replace(name, value)
        return text


def build_classes(pins: Pins) -> bytes:
    """Compile the classes into a jar; the same compiler gives the same bytes.

    Raises:
        ConversionError: no Java compiler, or it refused.
    """
    folder = source_folder() / "android"
    with tempfile.TemporaryDirectory(prefix="emberfleet-") as name:
        made = Path(name)
        pinned = made / "java" / f"{PINNED}.java"
        pinned.parent.mkdir(parents=True)
        pinned.write_text(pins.fill(folder / "templates" / "Pinned.java"))
        sources = [*files_below(folder / "stubs", ".java"), *files_below(folder / "java", ".java"), pinned]
        classes = made / "classes"
        classes.mkdir()
        run_tool([find_javac(), *COMPILE, "-d", classes, *sources], made)
        return pack(
            Entry(path.relative_to(classes).as_posix(), path.read_bytes())
            for path in files_below(classes / Path(PINNED).parent, ".class")
        )
