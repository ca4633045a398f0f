from __future__ import annotations

import logging
import sys

import pytest

from emberfleet.core.errors import BuildError, ConfigError, DeviceError, ShapeError
from emberfleet.core.graph import Graph
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.numpy_backend.trainer import NumpyTrainer
from emberfleet.engine.optimizers import Sgd
from emberfleet.engine.selection import BackendWithFallback, choose_backend
from tests.engine.networks import linear_network, single_tensors

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


class Refusing(NumpyBackend):
    """Raises an error instead of making a trainer; predictors are made."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.name = "refusing"
        self.error, self.asked = error, 0

    def trainer(self, graph: Graph, spec: TrainingSpec) -> NumpyTrainer:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "asked"),
    [(DeviceError("out of memory"), 2), (BuildError("refused"), 1)],
    ids=["memory", "build"],
)
def test_what_a_backend_cannot_prepare_the_other_prepares_with_one_line(
    error: DeviceError, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    first = Refusing(error)
    backend = BackendWithFallback(first, NumpyBackend)
    assert backend.name == "refusing"
    with caplog.at_level(logging.INFO):
        backend.trainer(linear_network(), TrainingSpec(2, Sgd()))
    assert [record.getMessage() for record in caplog.records] == [
        f"computing with numpy, which is slower than OpenCL: {error}"
    ]
    assert backend.name == "numpy"
    backend.trainer(linear_network(), TrainingSpec(2, Sgd()))
    assert first.asked == asked


def test_a_backend_that_works_is_used_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    backend = BackendWithFallback(Refusing(DeviceError("no")), NumpyBackend)
    graph = linear_network()
    with caplog.at_level(logging.INFO):
        backend.predictor(graph, single_tensors(graph), 2)
    assert backend.name == "refusing"
    assert not caplog.records


def test_a_mistake_of_the_caller_is_no_reason_to_fall_back() -> None:
    backend = BackendWithFallback(Refusing(ShapeError("wrong")), NumpyBackend)
    with pytest.raises(ShapeError, match="wrong"):
        backend.trainer(linear_network(), TrainingSpec(2, Sgd()))


@pytest.mark.parametrize("text", ["zero", "0", "-1"])
def test_a_senseless_number_of_threads_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBERFLEET_THREADS", text)
    with pytest.raises(ConfigError, match=text):
        choose_backend("numpy")
