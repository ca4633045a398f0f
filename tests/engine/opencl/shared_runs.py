"""``python -m tests.engine.opencl.shared_runs THREADS RUNS [apart]``: many short runs, every task counted.

With `apart` the calling thread does not compute. A process of its own: it has one number of threads.
"""

from __future__ import annotations

import sys
import time
from unittest import mock

import numpy as np

from emberfleet.core.arrays import Float32, UInt8
from emberfleet.engine.opencl.device import OpenCLDevice, open_device
from emberfleet.engine.opencl.launches import COUNTER_BYTES, FusedLaunch
from emberfleet.engine.opencl.predictor import OpenCLPredictor
from tests.engine.opencl.networks import plain_network, wide_network

INPUTS = 7


class Subject:
    """A network with several threads, and what one thread gives for its inputs."""

    def __init__(self, device: OpenCLDevice, wide: bool, apart: bool) -> None:
        graph = wide_network() if wide else plain_network()
        random = np.random.default_rng(5)
        shapes = {**graph.parameters, **graph.state}
        tensors = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
        tensors |= {name: np.abs(value) for name, value in tensors.items() if name.endswith("variance")}
        self.inputs: Float32 = random.random((INPUTS, 1, *graph.input.shape), np.float32)
        alone = OpenCLPredictor(device.calling_thread(), graph, tensors, 1)
        self.expected = [alone.run(x) for x in self.inputs]
        if apart:
            with mock.patch.object(OpenCLDevice, "calling_thread", lambda device: device):
                self.predictor = OpenCLPredictor(device, graph, tensors, 1)
        else:
            self.predictor = OpenCLPredictor(device, graph, tensors, 1)
        runner = self.predictor.program._runner
        assert isinstance(runner, FusedLaunch)
        self._counters: UInt8 = runner._counters.values
        self._table = runner._table
        self._runner = runner
        self._runs = 0

    def check(self, number: int) -> None:
        """Run once: the bits of one thread, every task taken once and finished once."""
        at = number % INPUTS
        found = self.predictor.run(self.inputs[at])
        self._runs += 1
        np.testing.assert_array_equal(found, self.expected[at])
        words = self._counters[: COUNTER_BYTES * (1 + len(self._table))].view(np.uint64).reshape(-1, 16)
        totals = self._table[:, 0, 1:].prod(axis=1).astype(np.uint64) + (
            np.uint64(self._runs) << np.uint64(32)
        )
        np.testing.assert_array_equal(words[1:, 0], totals)
        np.testing.assert_array_equal(words[1:, 8], totals)

    def write_arguments_again(self) -> None:
        """As after `set_argument`: the table is copied while helpers look for more."""
        self._runner._changed = True


def main(threads: int, runs: int, apart: bool) -> None:
    """Check runs in bursts, after pauses in which helpers leave, of two networks by turns."""
    device = open_device(threads=threads)
    with mock.patch.object(OpenCLDevice, "suited", lambda device, products, short=0: device):
        subjects = [Subject(device, wide, apart) for wide in (False, True)]
    random = np.random.default_rng(threads)
    for number in range(runs):
        subject = subjects[number // 50 % 2 if number % 1000 < 500 else number % 2]
        subject.check(number)
        chance = random.random()
        if chance < 0.02:
            time.sleep(random.uniform(0, 3e-4))
        elif chance < 0.1:
            subject.write_arguments_again()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), "apart" in sys.argv)
