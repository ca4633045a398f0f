from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from emberfleet.core.arrays import Float32, Tensors
from emberfleet.core.graph import Graph
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.numpy_backend import conv_step
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.numpy_backend.trainer import NumpyTrainer
from emberfleet.engine.optimizers import Sgd
from tests.engine.networks import NETWORKS, double_tensors, random_batch

BATCH = 5


def blocks(trainer: NumpyTrainer) -> set[int]:
    """How many blocks its convolutions cut the batch into."""
    steps = [step for step in trainer._program.steps if isinstance(step, conv_step.ConvStep)]
    return {len(step.forward_blocks) for step in steps if not step.window.pointwise}


@pytest.mark.parametrize("graph", NETWORKS.values(), ids=NETWORKS)
def test_blocks_of_images_give_the_gradients_of_the_whole_batch(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, labels = random_batch(graph, BATCH)
    found = []
    for scratch in (conv_step.SCRATCH_BYTES, 20_000, 1):
        monkeypatch.setattr(conv_step, "SCRATCH_BYTES", scratch)
        trainer = NumpyBackend(np.float64).trainer(graph, TrainingSpec(BATCH, Sgd(), seed=3))
        assert isinstance(trainer, NumpyTrainer)
        trainer.load(cast("Tensors", double_tensors(graph)))
        found.append((blocks(trainer), trainer.gradients(cast("Float32", x), labels)))
    assert found[0][0] <= {1}
    assert found[2][0] <= {BATCH}
    for _, gradients in found[1:]:
        for name, expected in found[0][1].items():
            np.testing.assert_allclose(gradients[name], expected, rtol=1e-9, atol=1e-12, err_msg=name)


def test_some_test_network_has_an_uneven_last_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_step, "SCRATCH_BYTES", 20_000)
    seen = set()
    for graph in NETWORKS.values():
        trainer = NumpyBackend(np.float64).trainer(graph, TrainingSpec(BATCH, Sgd()))
        assert isinstance(trainer, NumpyTrainer)
        seen |= blocks(trainer)
    assert seen & {2, 3}
