"""tflite-runtime 2.14, the last for 32-bit Raspberry Pi OS, gives the bits of the reference too.

It needs numpy 1 and so an environment of its own, from requirements-older-runtime.txt beside this file:
EMBERFLEET_TFLITE_RUNTIME_PYTHON names its Python.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from emberfleet.converters.tflite.float_writer import Weights, write_tflite_float
from emberfleet.converters.tflite.int8_writer import write_tflite_int8
from emberfleet.core.arrays import Array
from emberfleet.core.graph import Graph
from emberfleet.train.models import mobilenet, resnet, small_squeezenet
from tests.converters.plain_int8 import run_plain
from tests.converters.tflite.interpreter import run_tflite
from tests.converters.tflite.random_graphs import random_graphs
from tests.converters.tflite.test_int8_writer import calibrated, random_images
from tests.core.networks import mobile_network, random_tensors

OTHER_RUNTIME = "EMBERFLEET_TFLITE_RUNTIME_PYTHON"
RUN_ALL = """
import sys, pathlib, numpy as np
from tflite_runtime.interpreter import Interpreter, OpResolverType
kinds = {"reference": OpResolverType.BUILTIN_REF, "xnnpack": OpResolverType.AUTO}
for case in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    x = np.load(case / "x.npy")
    for name, kind in kinds.items():
        it = Interpreter(str(case / "model.tflite"), experimental_op_resolver_type=kind)
        index = it.get_input_details()[0]["index"]
        it.resize_tensor_input(index, x.shape)
        it.allocate_tensors()
        it.set_tensor(index, x)
        it.invoke()
        np.save(case / (name + ".npy"), it.get_tensor(it.get_output_details()[0]["index"]))
"""


@pytest.fixture(scope="module")
def older_python() -> str:
    python = os.environ.get(OTHER_RUNTIME)
    if not python:
        pytest.skip(f"{OTHER_RUNTIME} does not name a Python that has tflite-runtime")
    return python


def put(folder: Path, data: bytes, x: Array, want: Array) -> None:
    folder.mkdir()
    (folder / "model.tflite").write_bytes(data)
    np.save(folder / "x.npy", x)
    np.save(folder / "want.npy", want)


def largest_steps(python: str, folder: Path, kernels: str) -> int:
    """Steps between what was wanted and what the older runtime gives, over all cases of the folder."""
    cases = sorted(folder.iterdir())
    if not (cases[0] / f"{kernels}.npy").exists():
        subprocess.run([python, "-c", RUN_ALL, str(folder)], check=True)
    return max(
        int(np.abs(np.load(case / f"{kernels}.npy").astype(int) - np.load(case / "want.npy")).max())
        for case in cases
    )


def test_it_gives_the_same_bits_on_every_kind_of_model(older_python: str, tmp_path: Path) -> None:
    graphs = {
        "small": small_squeezenet(width=0.5, bypass=True),
        "mobile": mobile_network(),
        "mobilenet": mobilenet(size=32, classes=10, width=0.25),
        "resnet": resnet(8, width=0.5),
    }
    for name, graph in graphs.items():
        network = calibrated(graph)
        q = random_images(network, 3)
        put(tmp_path / name, write_tflite_int8(network), q, run_plain(network, q))
    assert largest_steps(older_python, tmp_path, "reference") == 0
    assert largest_steps(older_python, tmp_path, "xnnpack") <= 1


def test_it_gives_the_same_bits_on_random_graphs(older_python: str, tmp_path: Path) -> None:
    numbers = itertools.count()

    @settings(
        max_examples=200,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(random_graphs())
    def write(graph: Graph) -> None:
        network = calibrated(graph)
        q = random_images(network, 2)
        put(tmp_path / f"{next(numbers)}", write_tflite_int8(network), q, run_plain(network, q))

    write()
    assert largest_steps(older_python, tmp_path, "reference") == 0
    assert largest_steps(older_python, tmp_path, "xnnpack") <= 1


@pytest.mark.parametrize("weights", Weights)
def test_it_runs_every_form_of_the_float_network(older_python: str, tmp_path: Path, weights: Weights) -> None:
    graph = mobilenet(size=16, classes=10, width=0.25)
    x = np.random.default_rng(3).random((2, *graph.input.shape), dtype=np.float32)
    data = write_tflite_float(graph, random_tensors(graph), weights=weights)
    want = run_tflite(data, x, reference=True)
    put(tmp_path / "case", data, x, want)
    subprocess.run([older_python, "-c", RUN_ALL, str(tmp_path)], check=True)
    for kernels in ("reference", "xnnpack"):
        found = np.load(tmp_path / "case" / f"{kernels}.npy")
        assert np.abs(found - want).max() <= 2e-2 * np.abs(want).max()
