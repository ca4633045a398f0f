from __future__ import annotations

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D, GlobalAveragePool, Input
from emberfleet.engine.work import PASS_WORK, TAP_WORK, forward_work

GRAPH = Graph(
    (
        Input("image", (), (6, 5, 3)),
        Conv2D("conv", ("image",), 7, (3, 2), (1, 1), (1, 0, 1, 1)),
        DepthwiseConv2D("depthwise", ("conv",), 2, (3, 2)),
        GlobalAveragePool("mean", ("depthwise",)),
    )
)


def test_a_convolution_counts_its_multiply_adds() -> None:
    assert GRAPH.shapes["conv"] == (6, 5, 7)
    assert forward_work(GRAPH, GRAPH.by_name["conv"]) == 6 * 5 * 7 * 3 * 2 * 3


def test_a_depthwise_convolution_counts_a_pass_and_its_kernel() -> None:
    values = 4 * 4 * 14
    assert forward_work(GRAPH, GRAPH.by_name["depthwise"]) == values * (PASS_WORK + TAP_WORK * 3 * 2)


def test_a_pass_counts_the_values_it_writes() -> None:
    assert forward_work(GRAPH, GRAPH.by_name["mean"]) == PASS_WORK * 14


def test_the_input_costs_nothing() -> None:
    assert forward_work(GRAPH, GRAPH.by_name["image"]) == 0
