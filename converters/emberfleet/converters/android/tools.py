"""The programs that an AAR and an APK are made with, found on this machine and run.

Android's NDK and SDK serve as well as Debian's packages; neither is needed where the other is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emberfleet.core.errors import ConversionError

SHOWN: Final = 1500
TIMEOUT_S: Final = 300
CLANG_VERSIONS: Final = range(30, 13, -1)
DEBIAN_FRAMEWORK: Final = Path("/usr/share/android-framework-res/framework-res.apk")


@dataclass(frozen=True, slots=True)
class NativeTools:
    """What compiles C for Android: clang with lld beside it, and a JDK's folder of jni.h."""

    clang: Path
    jni: Path


def run_tool(command: Sequence[str | Path], folder: Path) -> str:
    """Run a program to its end and give what it wrote.

    Raises:
        ConversionError: it failed, with the end of what it said.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConversionError(f"{name} could not be run: {error}") from error
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0:
        raise ConversionError(f"{name} failed ({done.returncode}): {said[-SHOWN:]}")
    return said


def find_tool(name: str, install: str) -> Path:
    """A program on PATH or in the newest build tools of an Android SDK.

    Args:
        name: Of the program.
        install: What a reader of the error is to install.

    Raises:
        ConversionError: it is in neither place.
    """
    for folder in (None, *_newest_first(_sdk(), "build-tools/*")):
        found = shutil.which(name, path=None if folder is None else str(folder))
        if found:
            return Path(found)
    raise ConversionError(f"{name} is needed and not on this machine: install {install}")


def find_javac() -> Path:
    """The Java compiler, of ``JAVA_HOME`` where that is set."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("javac", path=str(Path(home) / "bin")) if home else None
    return Path(found) if found else find_tool("javac", "a JDK 11 or newer (Debian: default-jdk-headless)")


def find_native_tools() -> NativeTools:
    """A clang that has lld beside it: of an NDK (``ANDROID_NDK_HOME``), else of the system.

    Raises:
        ConversionError: no such clang, or a JDK without jni.h.
    """
    jni = find_javac().resolve().parents[1] / "include"
    if not (jni / "jni.h").is_file():
        raise ConversionError(f"no jni.h in {jni}: install a whole JDK (Debian: default-jdk-headless)")
    for clang in _clangs():
        if Path(run_tool([clang, "-print-prog-name=ld.lld"], Path.cwd())).is_absolute():
            return NativeTools(clang, jni)
    raise ConversionError(
        "clang and its linker lld are needed to build libember.so and are not on this machine: install them "
        "(Debian: clang lld), or set ANDROID_NDK_HOME to an Android NDK"
    )


def find_framework() -> Path:
    """The resources that a manifest is compiled against: android.jar of an SDK, or Debian's framework-res.

    Raises:
        ConversionError: neither is there.
    """
    found = [
        *(path / "android.jar" for path in _newest_first(_sdk(), "platforms/android-*")),
        DEBIAN_FRAMEWORK,
    ]
    for path in found:
        if path.is_file():
            return path
    raise ConversionError(
        "Android's framework resources are needed and not on this machine: install Debian's "
        "android-framework-res, or set ANDROID_HOME to an SDK with a platform"
    )


def _sdk() -> Path | None:
    place = os.environ.get("ANDROID_HOME") or os.environ.get("ANDROID_SDK_ROOT")
    return Path(place) if place else None


def _newest_first(folder: Path | None, pattern: str) -> list[Path]:
    """Folders named by versions, such as ``build-tools/35.0.1``."""
    if folder is None:
        return []
    return sorted(
        folder.glob(pattern), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)], reverse=True
    )


def _clangs() -> Iterator[Path]:
    named = os.environ.get("ANDROID_NDK_HOME") or os.environ.get("ANDROID_NDK_ROOT")
    for ndk in [*([Path(named)] if named else []), *_newest_first(_sdk(), "ndk/*")]:
        yield from sorted(ndk.glob("toolchains/llvm/prebuilt/*/bin/clang"))
    for name in ("clang", *(f"clang-{version}" for version in CLANG_VERSIONS)):
        found = shutil.which(name)
        if found:
            yield Path(found)
