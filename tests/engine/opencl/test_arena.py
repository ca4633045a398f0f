"""How near the planned arena comes to its bound, on the networks that Emberfleet trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Graph
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.batches import learning_names
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.network import vector_width
from emberfleet.engine.opencl.parameters import ParameterBlock
from emberfleet.engine.opencl.recomputation import fit
from emberfleet.engine.opencl.training_step import TrainingStep
from emberfleet.engine.optimizers import Sgd
from emberfleet.train.models import small_squeezenet, squeezenet_1_0, squeezenet_1_1
from emberfleet.train.plans import retraining_plans

ALLOWED = 1.05
"""Arena over bound; 1.15 was asked for."""
NETWORKS: Mapping[str, Graph] = {
    "small": small_squeezenet(28, 1, 10),
    "small, no batch norm": small_squeezenet(28, 1, 10, batch_norm=False),
    "small, wide, bypass, dropout": small_squeezenet(32, 3, 10, width=2.0, bypass=True, dropout=0.2),
    "small, 96 pixels": small_squeezenet(96, 3, 36, positions=14),
    "squeezenet 1.0": squeezenet_1_0(1000),
    "squeezenet 1.1": squeezenet_1_1(1000),
    "squeezenet 1.1, 64 pixels": squeezenet_1_1(10, 64),
}


def recorder(
    device: OpenCLDevice, graph: Graph, spec: TrainingSpec
) -> Callable[[frozenset[str]], TrainingStep]:
    """Records steps without building kernels: what `fit` judges."""
    width = vector_width(graph, device.limits.vector_width)
    blocks = ParameterBlock(graph.parameters, width), ParameterBlock(graph.state, width)
    points = quantization_points(graph) if spec.fake_quantize else {}
    learning = learning_names(graph, spec.trainable)
    return lambda dropped: TrainingStep(device, graph, spec, blocks, learning, points, dropped)


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("graph", NETWORKS.values(), ids=NETWORKS)
def test_the_arena_is_near_its_bound(device: OpenCLDevice, graph: Graph, batch: int, quantized: bool) -> None:
    spec = TrainingSpec(batch, Sgd(), fake_quantize=quantized)
    plan = recorder(device, graph, spec)(frozenset()).program.plan()
    assert plan.bound_bytes <= plan.size_bytes <= plan.bound_bytes * ALLOWED


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("graph", NETWORKS.values(), ids=NETWORKS)
def test_the_arena_is_near_its_bound_with_values_computed_twice(
    device: OpenCLDevice, graph: Graph, batch: int, quantized: bool
) -> None:
    record = recorder(device, graph, TrainingSpec(batch, Sgd(), fake_quantize=quantized))
    full = record(frozenset()).program.plan().size_bytes
    for share in (0.8, 0.7):
        step = fit(record, int(full * share))
        plan = step.program.plan()
        assert plan.size_bytes <= full * share
        assert plan.size_bytes <= plan.bound_bytes * ALLOWED


def test_every_scope_of_retraining_is_near_its_bound(device: OpenCLDevice) -> None:
    graph = NETWORKS["small"]
    for scope in retraining_plans(graph).values():
        spec = TrainingSpec(
            16, Sgd(), frozenset(scope.parameters), fake_quantize=True, batch_statistics=False
        )
        plan = recorder(device, graph, spec)(frozenset()).program.plan()
        assert plan.size_bytes <= plan.bound_bytes * ALLOWED


@pytest.mark.parametrize("graph", NETWORKS.values(), ids=NETWORKS)
def test_the_lowest_limit_that_is_named_can_be_kept(device: OpenCLDevice, graph: Graph) -> None:
    record = recorder(device, graph, TrainingSpec(4, Sgd()))
    with pytest.raises(ConfigError, match="smaller batch") as caught:
        fit(record, 1)
    needed = int(str(caught.value).split("needs ")[1].split(" bytes")[0].replace(",", ""))
    full = record(frozenset()).program.plan().size_bytes
    assert fit(record, needed).program.plan().size_bytes <= needed < 0.7 * full
