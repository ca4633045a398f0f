"""A bundle as a Debian package for Raspberry Pi OS, 32 or 64 bit: ``Architecture: all``.

==================================================  =====================================================
``/usr/bin/emberfleet``                             the command
``/usr/lib/emberfleet/python/``                     the program, without what it depends on
``/usr/lib/emberfleet/venv/``                       made at installation: what it depends on
``/usr/lib/emberfleet/wheelhouse/``                 wheels that were packed in, until they are installed
``/usr/share/emberfleet/model.ember``               the bundle, and `trusted.key` beside it: who signed it
``/usr/lib/systemd/system/emberfleet-device.service``  the service that takes part in a fleet
``/etc/emberfleet/device.conf``                     server and name of the device, kept by upgrades
``/var/lib/emberfleet/``                            keys, models and samples: only a purge takes them away
==================================================  =====================================================

The processor is known when the package is installed, not when it is written. A 32-bit Pi takes Debian's
numpy, cryptography and pyopencl, for which no wheels are published: they are alternatives to Python of a
64-bit processor, which is there on every 64-bit Pi. docs/guides/raspberry-pi.md.
"""

from __future__ import annotations

import gzip
import re
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Final

from emberfleet.converters.raspberrypi.deb import PackedFile, write_deb
from emberfleet.converters.raspberrypi.program import Program, running_program
from emberfleet.converters.raspberrypi.wheelhouse import Wheel
from emberfleet.core.bundle import Bundle
from emberfleet.core.errors import ConversionError
from emberfleet.core.signing import VerifyKey

PACKAGE: Final = "emberfleet-device"
UNIT: Final = "emberfleet-device.service"
MAINTAINER: Final = "The Emberfleet contributors <emberfleet@example.org>"
HOME: Final = "usr/lib/emberfleet"
SHARE: Final = "usr/share/emberfleet"
OF_64_BIT: Final = "python3:arm64 | python3:amd64"
DEPENDS: Final = (
    "python3 (>= 3.11)",
    "python3-venv",
    "systemd | systemd-standalone-sysusers | systemd-sysusers",
    f"python3-numpy (>= 1:1.24) | {OF_64_BIT}",
    f"python3-cryptography (>= 38) | {OF_64_BIT}",
)
OPENCL: Final = (f"python3-pyopencl | {OF_64_BIT}", "ocl-icd-libopencl1", "pocl-opencl-icd")
"""Recommended alone: PoCL brings a compiler ten times the size of the rest, and the model runs without."""
RECOMMENDS: Final = ("ca-certificates", "python3-pil", *OPENCL)
MAINTAINER_SCRIPTS: Final = ("postinst", "prerm", "postrm")


def build_package(
    bundle: bytes, key: VerifyKey, wheels: Sequence[Wheel] = (), maintainer: str = MAINTAINER
) -> bytes:
    """Write the package that installs a bundle and the program around it.

    The same bundle, program and wheels give the same bytes; every file carries the time of the bundle.

    Args:
        bundle: What `converters.bundle.build_bundle` wrote.
        key: Who signed it; the device trusts this key and no other.
        wheels: Packed in, so that the device needs no package index.
        maintainer: ``Name <address>``, for the control file.

    Raises:
        SignatureError: `key` has not signed the bundle.
        ConversionError: no maintainer in that form, or the program cannot be collected.
    """
    if not re.fullmatch(r"[^<>\n,]+ <[^<>@\s]+@[^<>@\s]+>", maintainer):
        raise ConversionError(
            f"maintainer is '{maintainer}', expected a text such as 'Name <name@example.org>'"
        )
    manifest = Bundle.open(bundle, [key]).manifest
    program = running_program()
    version = debian_version(program.version, manifest.model_version)
    created = datetime.fromisoformat(manifest.created).astimezone(UTC)
    control = {
        "Package": PACKAGE,
        "Version": version,
        "Architecture": "all",
        "Maintainer": maintainer,
        "Depends": ", ".join(DEPENDS),
        "Recommends": ", ".join(RECOMMENDS),
        "Section": "science",
        "Priority": "optional",
        "Description": _description(manifest.model_name, manifest.model_version, manifest.labels),
    }
    files = [
        *(PackedFile(f"{HOME}/python/{file.path}", file.data, file.mode) for file in program.files),
        *(PackedFile(f"{HOME}/wheelhouse/{wheel.name}", wheel.data, lasting=False) for wheel in wheels),
        *_own_files(program),
        *_documentation(version, maintainer, created),
        PackedFile(f"{SHARE}/model.ember", bundle),
        PackedFile(f"{SHARE}/trusted.key", f"{key.text}\n".encode()),
    ]
    scripts = {name: _text(name) for name in MAINTAINER_SCRIPTS}
    return write_deb(control, files, scripts, int(created.timestamp()))


def debian_version(program: str, model: int) -> str:
    """One version that grows with either: ``0.2.0~rc1+model7`` for program 0.2.0rc1 and model 7."""
    upstream = re.sub(r"\.?(dev|a|b|rc)(?=\d)", r"~\1", program.replace("+", "."))
    return f"{upstream}+model{model}"


def _own_files(program: Program) -> list[PackedFile]:
    return [
        PackedFile("usr/bin/emberfleet", _text("emberfleet"), 0o755),
        PackedFile(f"{HOME}/build-environment", _text("build-environment"), 0o755),
        PackedFile(f"{HOME}/take-part", _text("take-part"), 0o755),
        PackedFile(
            f"{HOME}/requirements.txt", "".join(f"{line}\n" for line in program.requirements).encode()
        ),
        PackedFile(f"usr/lib/systemd/system/{UNIT}", _text(UNIT)),
        PackedFile("usr/lib/sysusers.d/emberfleet.conf", _text("sysusers.conf")),
        PackedFile("etc/emberfleet/device.conf", _text("device.conf")),
    ]


def _documentation(version: str, maintainer: str, created: datetime) -> list[PackedFile]:
    date = created.strftime("%a, %d %b %Y %H:%M:%S +0000")
    changes = (
        f"{PACKAGE} ({version}) unstable; urgency=medium\n\n  * Written by emberfleet convert.\n\n"
        f" -- {maintainer}  {date}\n"
    )
    folder = f"usr/share/doc/{PACKAGE}"
    return [
        PackedFile(f"{folder}/changelog.gz", gzip.compress(changes.encode(), 9, mtime=0)),
        PackedFile(f"{folder}/copyright", _text("copyright").replace(b"YEAR", b"%d" % created.year)),
        PackedFile("usr/share/man/man1/emberfleet.1.gz", gzip.compress(_text("emberfleet.1"), 9, mtime=0)),
    ]


def _description(name: str, version: int, labels: Sequence[str]) -> str:
    """One line, then a paragraph indented by a space, as control files have it."""
    classes = f"{len(labels)} classes: {', '.join(labels[:6])}" + (", ..." if len(labels) > 6 else "")
    paragraph = (
        f"The model {name}, version {version}, with the program that runs it, retrains it on this device "
        f"and takes part in a fleet. It knows {classes}. Samples stay on the device."
    )
    lines = textwrap.wrap(paragraph, 78, break_long_words=False)
    return "neural network that learns where it is used\n" + "\n".join(f" {line}" for line in lines)


def _text(name: str) -> bytes:
    return resources.files("emberfleet.converters.raspberrypi").joinpath("files", name).read_bytes()
