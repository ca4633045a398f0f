from __future__ import annotations

import logging
import sys

import pytest

from emberfleet.core.errors import ConfigError, DeviceError
from emberfleet.engine.selection import choose_backend

OPENCL = "emberfleet.engine.opencl.backend"


def test_numpy_is_there_by_name() -> None:
    assert choose_backend("numpy").name == "numpy"


def test_auto_falls_back_to_numpy_with_one_line_that_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, OPENCL, None)
    with caplog.at_level(logging.INFO):
        assert choose_backend("auto").name == "numpy"
    assert len(caplog.records) == 1
    assert "OpenCL" in caplog.text


def test_opencl_by_name_fails_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, OPENCL, None)
    with pytest.raises(DeviceError, match="emberfleet doctor"):
        choose_backend("opencl")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="auto, numpy, opencl"):
        choose_backend("cuda")


@pytest.mark.parametrize("text", ["zero", "0", "-1"])
def test_a_senseless_number_of_threads_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBERFLEET_THREADS", text)
    with pytest.raises(ConfigError, match=text):
        choose_backend("numpy")
