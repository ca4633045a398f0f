"""What tests of the Android library need beside the product: skips, and the library on a desktop's JVM."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from emberfleet.converters.android import tools
from emberfleet.converters.android.sources import c_sources, files_below, source_folder
from emberfleet.core.errors import ConversionError

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parents[2] / "examples" / "android"
DESKTOP_ABI = "x86_64"
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wstrict-prototypes", "-Werror")
C_FLAGS = ("-std=c99", "-D_POSIX_C_SOURCE=200809L", "-O2", "-fPIC", "-ffp-contract=off", "-shared", *WARNINGS)


def skip_unless(*programs: str) -> None:
    """Skip where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")


def skip_unless_it_builds() -> None:
    """Skip where clang, lld or a JDK is missing."""
    try:
        tools.find_native_tools()
    except ConversionError as error:
        pytest.skip(str(error))


def run(*words: str | Path, **environment: str) -> str:
    """What a program writes that ends well."""
    done = subprocess.run(
        words,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def jni_headers() -> list[str]:
    """Options that find jni.h."""
    folder = tools.find_javac().resolve().parents[1] / "include"
    return [f"-I{folder}", *(f"-I{path.parent}" for path in folder.glob("*/jni_md.h"))]


def build_desktop_library(folder: Path) -> Path:
    """libember.so with its Java half's functions, for this machine; every warning is an error."""
    sources = source_folder()
    library = folder / "libember.so"
    files = [sources / name for name in c_sources(sources, DESKTOP_ABI)]
    run(
        "gcc",
        *C_FLAGS,
        "-fvisibility=hidden",
        f"-I{sources / 'runner'}",
        *jni_headers(),
        *files,
        "-o",
        library,
        "-ldl",
        "-lm",
    )
    return library


def compile_java(
    out: Path, sources: Sequence[Path], *class_path: Path, warnings: str = "all", release: int = 11
) -> Path:
    """Compile classes; every warning is an error."""
    out.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(str(place) for place in class_path) or str(out)
    options = [
        "--release",
        str(release),
        f"-Xlint:{warnings},-options,-serial",
        "-Werror",
        "-classpath",
        path,
    ]
    run(tools.find_javac(), *options, "-d", out, *sources)
    return out


def compile_desktop(out: Path, *class_path: Path) -> Path:
    """The program that drives the library, the example's app, classes of android that work on a desktop."""
    stubs = source_folder() / "android" / "stubs"
    own = files_below(HERE / "desktop", ".java")
    replaced = {path.relative_to(HERE / "desktop") for path in own}
    others = [path for path in files_below(stubs, ".java") if path.relative_to(stubs) not in replaced]
    app = files_below(EXAMPLE / "app" / "src" / "main" / "java", ".java")
    return compile_java(out, [*own, *others, *app], *class_path, warnings="none")


def undex(dex: Path, jar: Path) -> Path:
    """Classes for a JVM from Android's, by Debian's enjarify; skips where that is missing."""
    python = Path("/usr/bin/python3")
    enjarify: list[str | Path] = [python, "-O", "-m", "enjarify.main"]
    if (
        not python.exists()
        or subprocess.run([*enjarify, "--help"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no enjarify here: it turns Android's classes into those of a JVM")
    said = run(*enjarify, "-f", "-o", jar, dex)
    assert "0 classes had errors" in said
    return jar


class Desk:
    """The library on this machine's JVM."""

    def __init__(self, library: Path, *class_path: Path) -> None:
        self._library = library.parent
        self._class_path = os.pathsep.join(str(path) for path in class_path)

    def with_opencl(self, opencl_library: str, *words: str) -> list[str]:
        """Drive it in a process whose PoCL works here; a line for each word."""
        jvm = tools.find_javac().resolve().parents[1] / "lib" / "server" / "libjvm.so"
        if not jvm.exists():
            pytest.skip(f"no {jvm}")
        paths = os.pathsep.join(path for path in sys.path if path)
        program: list[str | Path] = [sys.executable, "-m", "tests.converters.android.in_process"]
        program += [jvm, self._class_path, self._library, "Drive"]
        said = run(*program, *words, PYTHONPATH=paths, EMBER_OPENCL_LIBRARY=opencl_library)
        assert "WARNING" not in said, said
        return said.splitlines()

    def without_opencl(self, *words: str) -> list[str]:
        """Drive it where no OpenCL can be loaded."""
        java = tools.find_javac().resolve().with_name("java")
        options = ["-cp", self._class_path, f"-Djava.library.path={self._library}"]
        return run(java, *options, "Drive", *words, EMBER_OPENCL_LIBRARY="/nowhere/libOpenCL.so").splitlines()
