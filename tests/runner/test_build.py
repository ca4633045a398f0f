from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runner.building import COMPILERS, CORPUS, SANITIZED, SOURCE, build, build_program, run, run_program
from tests.runner.bundles import KEY
from tests.runner.ember import Ember, EmberError, Status

API = {"ember_open", "ember_open_file", "ember_describe", "ember_run", "ember_codes", "ember_close"}


def test_another_compiler_has_no_warning_either(tmp_path: Path) -> None:
    folder = build(tmp_path, "clang", "ember-run", "libember.so", "libember.a")
    assert run(folder / "ember-run", "--help").returncode == 0


def test_the_header_is_plain_c_and_cpp(tmp_path: Path) -> None:
    for compiler, standard, name in (("gcc", "c99", "c"), ("g++", "c++11", "cpp")):
        if shutil.which(compiler) is None:
            pytest.skip(f"no {compiler} here")
        source = tmp_path / f"use.{name}"
        source.write_text('#include "ember.h"\nint main(void) { ember_close(0); return 0; }\n')
        flags = [
            f"-std={standard}",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wpedantic",
            "-fsyntax-only",
            f"-I{SOURCE}",
        ]
        subprocess.run([compiler, *flags, str(source)], check=True, timeout=60)


def test_the_library_shows_the_api_and_needs_libc_alone(built: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf here: install binutils")
    library = str(built / "libember.so")
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert {line.split()[-1] for line in symbols.splitlines()} == API
    dynamic = subprocess.run(
        ["readelf", "-dW", library], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    needed = [line for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert needed
    assert all("[libc.so" in line or "[libdl.so" in line or "[ld-linux" in line for line in needed), needed


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_corpus_is_read_without_a_fault(compiler: str, tmp_path: Path) -> None:
    folder = build(tmp_path, compiler, "run_files")
    files = sorted(CORPUS.iterdir())
    done = run(folder / "run_files", *files)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{len(files)} files\n"


def test_the_corpus_stays_small() -> None:
    assert 0 < sum(path.stat().st_size for path in CORPUS.iterdir()) < 200 * 1024


def test_a_sanitized_program_refuses_without_a_fault(sanitized: Path, tmp_path: Path, bundle: bytes) -> None:
    path = tmp_path / "model.ember"
    for data, text in (
        (bundle, "no OpenCL library"),
        (bundle[:-1], "bundle:"),
        (bundle[:5000] + bytes([bundle[5000] ^ 1]) + bundle[5001:], "bundle:"),
        (bundle.replace(b'"sig":"', b'"sig": "', 1), "bundle:"),
        (b"", "bundle:"),
    ):
        path.write_bytes(data)
        for trust in (("--key", KEY.verify_key.text), ("--verified",)):
            done = run(sanitized, path, *trust, "--library", "libnowhere.so")
            assert done.returncode == 1
            assert done.stderr.startswith("ember-run: ")
            assert text in done.stderr
            assert done.stderr.count("\n") == 1, done.stderr


@pytest.fixture(scope="module")
def sanitized_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ember-run for a process that has prepared PoCL, with both sanitizers."""
    return build_program(tmp_path_factory.mktemp("sanitized_program"), *SANITIZED.split())


@pytest.mark.parametrize("plan", ["int8-cpu", "int8-gpu", "float32-cpu", "float32-gpu"])
def test_a_sanitized_program_runs_without_a_fault(
    sanitized_program: Path, tmp_path: Path, bundle: bytes, opencl_library: str, plan: str
) -> None:
    """Python keeps memory until it ends: for leaks test_devices looks, in a process of its own."""
    where = ["gcc", "-print-file-name=libasan.so"]
    sanitizer = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(sanitizer).is_absolute():
        pytest.skip("this gcc has no AddressSanitizer to load first")
    model, image = tmp_path / "model.ember", tmp_path / "image.pgm"
    model.write_bytes(bundle)
    image.write_bytes(b"P5 9 9 255\n" + bytes(81))
    precision = plan.partition("-")[0]
    words = (
        "--key",
        KEY.verify_key.text,
        "--input",
        image,
        "--precision",
        precision,
        "--plan",
        plan,
        "--json",
    )
    # The sanitizer opens libraries in the caller's place, so what lies beside the caller is not found.
    done = run_program(
        sanitized_program,
        model,
        *words,
        EMBER_OPENCL_LIBRARY=opencl_library,
        LD_PRELOAD=f"{sanitizer} libstdc++.so.6",
        LD_LIBRARY_PATH=str(Path(opencl_library).parent),
        ASAN_OPTIONS="detect_leaks=0",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["plan"] == plan


def test_the_seeds_of_the_corpus_are_those_of_the_format(ember: Ember, tmp_path: Path) -> None:
    command = [sys.executable, str(SOURCE / "fuzz" / "make_corpus.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run(command, check=True, timeout=60, env=environment)
    assert {path.read_bytes()[:1] for path in tmp_path.iterdir()} == {b"B", b"M", b"E", b"P", b"J"}
    with pytest.raises(EmberError) as caught:
        ember.open((tmp_path / "bundle").read_bytes()[1:], verified=True, opencl_library="libnowhere.so")
    assert caught.value.status == Status.NO_OPENCL
