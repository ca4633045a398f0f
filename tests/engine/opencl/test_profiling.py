from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, GlobalAveragePool, Input, Relu
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.predictor import OpenCLPredictor
from emberfleet.engine.opencl.profiling import (
    PEAK_ROUNDS,
    PEAK_SUMS,
    PEAK_TURNS,
    KernelTime,
    moved_bytes,
    peak_flops,
    profile,
    totals,
)
from emberfleet.engine.opencl.program import Program
from emberfleet.engine.opencl.trainer import OpenCLTrainer
from emberfleet.engine.optimizers import Sgd
from tests.core.networks import SAME3
from tests.engine.networks import random_batch, single_tensors

BATCH = 2
STEM, HEAD = 2 * 9 * 3 * 20 * 36, 2 * 20 * 10 * 36
"""Multiplications and additions for one image: window x channels x outputs x pixels."""


def network() -> Graph:
    return Graph(
        (
            Input("image", (), (6, 6, 3)),
            Conv2D("stem", ("image",), 20, (3, 3), (1, 1), SAME3),
            Relu("active", ("stem",)),
            Conv2D("head", ("active",), 10),
            GlobalAveragePool("average", ("head",)),
        )
    )


@pytest.fixture
def trainer(device: OpenCLDevice) -> OpenCLTrainer:
    graph = network()
    trainer = OpenCLTrainer(device, graph, TrainingSpec(BATCH, Sgd()))
    trainer.load(single_tensors(graph))
    x, labels = random_batch(graph, BATCH)
    trainer.step(x.astype(np.float32), labels, 1e-3)
    return trainer


def by_position(program: Program, start: int, stop: int) -> float:
    """A clock by which a launch costs 5 ms and the kernel at position p takes p + 1 ms more."""
    return 0.005 + sum(0.001 * (index + 1) for index in range(start, stop))


def test_what_convolutions_compute_is_counted_as_by_hand(trainer: OpenCLTrainer) -> None:
    found = {total.kernel: total.flops for total in totals(profile(trainer.program, timer=by_position))}
    assert found["conv2d_forward_f32"] == BATCH * (STEM + HEAD + HEAD)
    assert found["conv2d_backward_weight_f32"] == BATCH * (STEM + HEAD)
    assert sum(found.values()) == BATCH * (2 * STEM + 3 * HEAD)


def test_a_kernel_counts_by_its_own_time_without_the_launch(trainer: OpenCLTrainer) -> None:
    times = profile(trainer.program, timer=by_position)
    assert [time.position for time in times] == list(range(len(trainer.program.kernels)))
    assert [time.kernel for time in times] == trainer.program.kernels
    assert [time.seconds for time in times] == pytest.approx([0.001 * (i + 1) for i in range(len(times))])


def test_the_kernels_before_the_first_are_left_out(trainer: OpenCLTrainer) -> None:
    times = profile(trainer.program, first=3, timer=by_position)
    assert [time.position for time in times] == list(range(3, len(trainer.program.kernels)))


def test_totals_add_up_and_the_slowest_comes_first() -> None:
    def time(kernel: str, seconds: float) -> KernelTime:
        return KernelTime(0, kernel, seconds, 7, 11, (1,), "", "")

    found = totals([time("a", 1.0), time("b", 4.0), time("a", 2.0)])
    assert [(t.kernel, t.calls, t.seconds, t.flops, t.moved_bytes) for t in found] == [
        ("b", 1, 4.0, 7, 11),
        ("a", 2, 3.0, 14, 22),
    ]


def test_a_convolution_moves_its_input_its_weights_and_its_output(device: OpenCLDevice) -> None:
    graph = network()
    program = OpenCLPredictor(device, graph, single_tensors(graph), BATCH).program
    stem = next(call for call in program.calls if call.kernel == "conv2d_forward_f32")
    padded = -(-20 // program.vector) * program.vector
    assert moved_bytes(program, stem) == 4 * (BATCH * 36 * 3 + 9 * 3 * padded + BATCH * 36 * 20)


def test_kernels_over_whole_buffers_move_those(trainer: OpenCLTrainer) -> None:
    program = trainer.program
    update = next(call for call in program.calls if call.kernel == "update_f32")
    names = ("params", "gradients", "slots", "update_jobs")
    assert moved_bytes(program, update) == sum(program.size_bytes(name) for name in names)


def test_every_kernel_is_timed_with_a_real_clock(trainer: OpenCLTrainer) -> None:
    times = profile(trainer.program, rounds=1)
    assert all(0 < time.seconds < 1 for time in times)
    convolution = next(time for time in times if time.shape)
    assert convolution.shape == "3x3, 3 -> 20, 2 x 6x6"
    assert "mrx=" in convolution.tile


def test_the_peak_is_a_rate_of_this_century(device: OpenCLDevice) -> None:
    assert 1e8 < peak_flops(device) < 1e15


def test_the_peak_is_what_the_clock_says(device: OpenCLDevice) -> None:
    seconds = iter([2.0, 1.0, *[3.0] * PEAK_ROUNDS])
    found = peak_flops(device, lambda program, start, stop: next(seconds))
    sums = PEAK_SUMS * device.limits.vector_width * device.busy_groups * device.lanes
    assert found == 2 * PEAK_TURNS * sums
