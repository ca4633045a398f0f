"""Where the sources of an AAR lie: in the wheel beside this file, in a checkout under ``edge/``.

=============  ==============================================================================
``runner/``    the runner in C (`edge/runner`)
``android/``   JNI, Java, smali, and what takes the place of an NDK and an SDK (`edge/android`)
=============  ==============================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from emberfleet.core.errors import ConversionError

COMMAND_LINE: Final = "ember_run.c"


def source_folder() -> Path:
    """The folder that holds ``runner/`` and ``android/``.

    Raises:
        ConversionError: neither a wheel nor a checkout.
    """
    here = Path(__file__).resolve()
    for folder in (here.parent / "sources", here.parents[4] / "edge"):
        if (folder / "runner" / "ember.h").is_file() and (folder / "android" / "jni").is_dir():
            return folder
    raise ConversionError("the sources of the Android library are missing: install Emberfleet's wheel anew")


def c_sources(folder: Path, abi: str) -> list[str]:
    """What libember.so of an ABI is compiled from, relative to the folder, in a fixed order."""
    places = ["runner", "android/jni", *(["android/libc/arm"] if abi == "armeabi-v7a" else [])]
    return [
        path.relative_to(folder).as_posix()
        for place in places
        for path in sorted((folder / place).glob("*.c"))
        if path.name != COMMAND_LINE
    ]


def files_below(folder: Path, suffix: str) -> list[Path]:
    """All files of a suffix, in a fixed order."""
    return sorted(folder.rglob(f"*{suffix}"))
