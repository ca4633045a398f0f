"""Records what a network would launch, without building it: for those that count or tune its work."""

from __future__ import annotations

from emberfleet.core.graph import Graph
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.batches import learning_names
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.network import vector_width
from emberfleet.engine.opencl.parameters import ParameterBlock
from emberfleet.engine.opencl.program import Program
from emberfleet.engine.opencl.training_step import TrainingStep


def record_training(device: OpenCLDevice, graph: Graph, spec: TrainingSpec) -> Program:
    """The launches of a training step that keeps all values."""
    vector = vector_width(graph, device.limits.vector_width)
    blocks = ParameterBlock(graph.parameters, vector), ParameterBlock(graph.state, vector)
    points = quantization_points(graph) if spec.fake_quantize else {}
    learning = learning_names(graph, spec.trainable)
    return TrainingStep(device, graph, spec, blocks, learning, points, frozenset()).program
