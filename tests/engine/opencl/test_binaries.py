from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emberfleet.engine.opencl import binaries
from emberfleet.engine.opencl.device import OpenCLDevice


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "emberfleet" / "opencl"


def test_what_was_saved_is_loaded(cache: Path) -> None:
    name = binaries.key("source", "options")
    assert binaries.load(name) is None
    binaries.save(name, b"program")
    assert binaries.load(name) == b"program"
    assert [path.name for path in cache.iterdir()] == [name]


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 40])
def test_a_damaged_file_is_ignored_with_a_line_in_the_log(
    cache: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir(parents=True)
    (cache / "name").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert binaries.load("name") is None
    assert "damaged" in caplog.text


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "emberfleet").write_text("a file where the folder would be")
    binaries.save("name", b"program")
    assert binaries.load("name") is None


def test_each_part_of_a_key_counts() -> None:
    assert len({binaries.key("a", "b"), binaries.key("ab", ""), binaries.key("a", "c")}) == 3


def test_a_composed_program_is_compiled_once_and_then_loaded(
    device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    import pyopencl as cl

    if not device.keeps_binaries:
        pytest.skip("binaries are kept for PoCL only")
    source = "__kernel void f(__global float *x) { x[get_global_id(0)] = 7.0f; }"
    compiled: list[str] = []
    compile_ = OpenCLDevice._compile

    def counting(self: OpenCLDevice, name: str, *rest: Any) -> Any:
        compiled.append(name)
        return compile_(self, name, *rest)

    monkeypatch.setattr(OpenCLDevice, "_compile", counting)
    for times in (1, 1):
        monkeypatch.setattr(device, "_programs", {})
        kernel = cl.Kernel(device.build_text("f", source, 4), "f")
        assert len(compiled) == times
        assert len(list(cache.iterdir())) == 1
        buffer = device.allocate(64, "a test")
        kernel.set_args(buffer)
        cl.enqueue_nd_range_kernel(device.queue, kernel, (4,), (1,))
        found = np.empty(5, np.float32)
        cl.enqueue_copy(device.queue, found, buffer)
        np.testing.assert_array_equal(found, [7, 7, 7, 7, 0])


def test_a_binary_that_the_driver_refuses_is_built_again(
    device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not device.keeps_binaries:
        pytest.skip("binaries are kept for PoCL only")
    source = "__kernel void f(__global float *x) { x[0] = 3.0f; }"
    monkeypatch.setattr(device, "_programs", {})
    monkeypatch.setattr(binaries, "load", lambda name: b"not a program")
    with caplog.at_level(logging.WARNING):
        device.build_text("f", source, 4)
    assert "building it again" in caplog.text
