"""The packages for Raspberry Pi and Android, opened here and run by what is in them."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from emberfleet.runtime.runtime import Runtime
from tests.converters.android.building import Desk, build_desktop_library, compile_desktop
from tests.pi.run import NO_ROOTS, run_roots
from tests.pi.userland import find_roots, what_is_missing
from tests.runner.pocl import prepared_library
from tests.targets.subject import Answer, Subject, TargetError, UnavailableError, run, tool

PICTURES = 20
FLOAT_LIMIT = 1e-5
SCORED = re.compile(r"(\S+) [\d.E-]+ \[(.*)\] \d+ true")
"""What the program in tests/converters/android/desktop prints of a picture."""


def raspberrypi(subject: Subject) -> list[Answer]:
    """The .deb on emulated Raspberry Pis where there are roots, else what lies in it on this machine."""
    if subject.roots is not None:
        return _emulated(subject, subject.roots)
    path = subject.convert("raspberrypi", "digits.deb")
    unpacked = subject.folder / "raspberrypi"
    run([tool("dpkg-deb"), "--extract", str(path), str(unpacked)])
    found = unpacked / "usr" / "share" / "emberfleet" / "model.ember"
    runtime = Runtime.open(found, [subject.key.verify_key], "numpy")
    codes = subject.network.output_tensor.params.quantize(runtime.logits(subject.pixels))
    ran = "its bundle by numpy on this machine; --roots runs it on emulated Raspberry Pis"
    return [Answer(path, ran, subject.int8_agreement(codes, 0))]


def _emulated(subject: Subject, folder: Path) -> list[Answer]:
    roots = find_roots(folder)
    missing = what_is_missing() + ([] if roots else [NO_ROOTS])
    if missing:
        raise UnavailableError("; ".join(missing))
    rows = run_roots(roots, subject.folder, Console(stderr=True, soft_wrap=True, highlight=False))
    failed = [f"{row['target']}: {row['failure']}" for row in rows if "failure" in row]
    if failed:
        raise TargetError("; ".join(failed))
    answers, shown = [], subject.folder / "pi" / "shown"
    for row in rows:
        steps = ", ".join(f"{name} {value}" for name, value in row["agreement"]["logits"].items())
        ran = f"emulated {row['target']}: {', '.join(row['ran'])}"
        answers.append(Answer(shown / row["artefact"], ran, f"int8 steps at most: {steps}"))
    return answers


def android(subject: Subject) -> list[Answer]:
    """The classes of the .aar on this machine's JVM, the C that its libraries are built of, and PoCL."""
    path = subject.convert("android", "digits.aar")
    folder = subject.folder / "android"
    with zipfile.ZipFile(path) as aar:
        aar.extractall(folder)
        libraries = [name for name in aar.namelist() if name.endswith("/libember.so")]
    try:
        desktop = compile_desktop(folder / "desktop", folder / "classes.jar")
        desk = Desk(build_desktop_library(folder), folder / "classes.jar", desktop)
        lines = desk.with_opencl(
            prepared_library(), f"assets={folder / 'assets'}", "open", *_classify(subject, folder)
        )
    except pytest.skip.Exception as error:
        raise UnavailableError(str(error)) from error
    found = np.array([_scores(line) for line in lines[2:]], np.float32)
    numpy = Runtime.open(folder / "assets" / "emberfleet" / "model.ember", [subject.key.verify_key], "numpy")
    expected = numpy.predict(subject.pixels[:PICTURES]).probabilities
    ran = f"its classes and C on this machine's JVM, PoCL; its {len(libraries)} Android builds on no phone"
    return [Answer(path, ran, subject.float_agreement(found, expected, FLOAT_LIMIT))]


def _classify(subject: Subject, folder: Path) -> list[str]:
    words = []
    for index, pixels in enumerate(subject.pixels[:PICTURES]):
        picture = folder / f"{index}.png"
        Image.fromarray(np.repeat(pixels, 3, axis=2)).save(picture)
        words.append(f"classify={picture}")
    return words


def _scores(line: str) -> list[float]:
    found = SCORED.fullmatch(line)
    if found is None:
        raise TargetError(f"the app said: {line}")
    return [float(score) for score in found[2].split(",")]
