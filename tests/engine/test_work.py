from __future__ import annotations

from emberfleet.core.graph import Conv2D, GlobalAveragePool, Graph, Input
from emberfleet.engine.work import PASS_WORK, forward_work

GRAPH = Graph(
    (
        Input("image", (), (6, 5, 3)),
        Conv2D("conv", ("image",), 7, (3, 2), (1, 1), (1, 0, 1, 1)),
        GlobalAveragePool("mean", ("conv",)),
    )
)


def test_a_convolution_counts_its_multiply_adds() -> None:
    assert GRAPH.shapes["conv"] == (6, 5, 7)
    assert forward_work(GRAPH, GRAPH.by_name["conv"]) == 6 * 5 * 7 * 3 * 2 * 3


def test_a_pass_counts_the_values_it_writes() -> None:
    assert forward_work(GRAPH, GRAPH.by_name["mean"]) == PASS_WORK * 7


def test_the_input_costs_nothing() -> None:
    assert forward_work(GRAPH, GRAPH.by_name["image"]) == 0
