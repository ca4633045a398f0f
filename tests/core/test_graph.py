from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError, ShapeError
from emberfleet.core.graph import Graph, without_softmax
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Node,
    Reshape,
    Softmax,
    ceil_padding,
    same_padding,
)
from tests.core.networks import bypass_network

IMAGE = Input("input", (), (7, 5, 3))


def test_shapes_follow_the_nodes() -> None:
    graph = bypass_network(positions=3, classes=4)
    assert graph.shapes["conv1"] == (9, 9, 8)
    assert graph.shapes["pool1"] == (4, 4, 8)
    assert graph.shapes["fire2/concat"] == (4, 4, 8)
    assert graph.shapes["matrix"] == (3, 4)
    assert (graph.positions, graph.classes) == (3, 4)


def test_parameters_come_in_node_order_with_their_shapes() -> None:
    parameters = bypass_network().parameters
    assert list(parameters)[:3] == ["conv1/weight", "conv1/norm/gamma", "conv1/norm/beta"]
    assert parameters["fire2/expand3x3/weight"] == (4, 3, 3, 4)
    assert parameters["classifier/bias"] == (5,)
    assert "conv1/bias" not in parameters


def test_a_depthwise_convolution_has_its_multiplier_of_outputs_per_channel() -> None:
    nodes = (
        IMAGE,
        DepthwiseConv2D("d", ("input",), 2, (3, 3), (2, 1), (1, 1, 1, 1)),
        ClippedRelu("six", ("d",)),
        AveragePool("pool", ("six",), (2, 3), (2, 2), (0, 1, 0, 1)),
        GlobalAveragePool("mean", ("pool",)),
    )
    graph = Graph(nodes)
    assert graph.shapes == {
        "input": (7, 5, 3),
        "d": (4, 5, 6),
        "six": (4, 5, 6),
        "pool": (2, 3, 6),
        "mean": (6,),
    }
    assert graph.parameters == {"d/weight": (6, 3, 3, 1), "d/bias": (6,)}
    assert Graph.from_json(graph.to_json()) == graph


def test_logits_are_what_a_softmax_reads() -> None:
    graph = Graph((IMAGE, GlobalAveragePool("mean", ("input",)), Softmax("p", ("mean",))))
    assert graph.logits == "mean"
    assert graph.output.name == "p"


@pytest.mark.parametrize("positions", [1, 3])
def test_json_round_trip_gives_the_same_graph(positions: int) -> None:
    graph = bypass_network(positions)
    text = graph.to_json()
    assert Graph.from_json(text) == graph
    assert Graph.from_json(text).to_json() == text


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ((), "starts with its input"),
        ((Conv2D("c", ("input",), 4),), "starts with its input"),
        ((IMAGE, Conv2D("input", ("input",), 4)), "taken"),
        ((IMAGE, Conv2D("c", ("nowhere",), 4)), "'nowhere' is not an earlier node"),
        ((IMAGE, Conv2D("c", ("input",), 4, (9, 9))), "does not fit into the image"),
        ((IMAGE, Conv2D("c", ("input",), 4, (1, 1), (0, 1))), "must be positive"),
        ((IMAGE, MaxPool("p", ("input",), (2, 2), (1, 1), (2, 0, 0, 0))), "would hold no pixel"),
        ((IMAGE, AveragePool("p", ("input",), (2, 2), (1, 1), (0, 0, 0, 2))), "would hold no pixel"),
        ((IMAGE, DepthwiseConv2D("d", ("input",), 0)), "multiplier is 0, expected 1 or more"),
        ((IMAGE, DepthwiseConv2D("d", ("input",), 1 << 30)), "out of bounds"),
        ((IMAGE, DepthwiseConv2D("d", ("input",), 1, (9, 9))), "does not fit into the image"),
        ((IMAGE, GlobalAveragePool("g", ("input",)), DepthwiseConv2D("d", ("g",))), "expected an image"),
        ((IMAGE, ClippedRelu("r", ("input",), 0.0)), "ceiling is 0.0"),
        ((IMAGE, ClippedRelu("r", ("input",), float("nan"))), "ceiling is nan"),
        ((IMAGE, ClippedRelu("r", ("input",), float("inf"))), "ceiling is inf"),
        ((IMAGE, Concat("c", ("input",))), "expected two or more"),
        ((IMAGE, GlobalAveragePool("g", ("input",)), GlobalAveragePool("h", ("g",))), "expected an image"),
        ((IMAGE, GlobalAveragePool("g", ("input",)), Reshape("r", ("g",), (2, 2))), "does not fill"),
        ((IMAGE, MaxPool("p", ("input",)), Add("a", ("p", "input"))), "equal shapes"),
        ((IMAGE, Softmax("s", ("input",)), GlobalAveragePool("g", ("s",))), "only the last node"),
        ((IMAGE, MaxPool("p", ("input",)), GlobalAveragePool("g", ("input",))), "nothing reads: p"),
        ((IMAGE, Conv2D("c", ("input",), 4)), "expected classes"),
        ((IMAGE, Conv2D("c", ("input",), 1 << 30)), "out of bounds"),
    ],
)
def test_a_graph_that_does_not_fit_together_is_refused(nodes: tuple[Node, ...], said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        Graph(nodes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "format 1"),
        ('{"format": 1, "nodes": {}}', "nodes"),
        ('{"format": 1, "nodes": [3]}', "a node is an object"),
        ('{"format": 1, "nodes": [{"kind": "lstm"}]}', "unknown kind 'lstm'"),
        ('{"format": 1, "nodes": [{"kind": "input", "name": "x"}]}', "lacks 'inputs'"),
        (
            '{"format": 1, "nodes": [{"kind": "input", "name": 3, "inputs": [], "shape": [1]}]}',
            "expected str",
        ),
        ('{"format": 1, "nodes": [{"kind": "input", "name": "x", "inputs": [], "shape": [true]}]}', "Shape"),
    ],
)
def test_text_that_is_no_graph_is_refused(text: str, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        Graph.from_json(text)


def test_an_unknown_field_is_refused() -> None:
    document = json.loads(bypass_network().to_json())
    document["nodes"][1]["dilation"] = [2, 2]
    with pytest.raises(FormatError, match="unknown fields"):
        Graph.from_json(json.dumps(document))


@given(n=st.integers(1, 50), k=st.integers(1, 7), s=st.integers(1, 4))
def test_same_padding_gives_one_output_per_stride(n: int, k: int, s: int) -> None:
    top, _, bottom, _ = same_padding((n, n), (k, k), (s, s))
    assert 0 <= bottom - top <= 1
    assert (n + top + bottom - k) // s + 1 >= -(-n // s)
    if k >= s:
        assert (n + top + bottom - k) // s + 1 == -(-n // s)


@pytest.mark.parametrize(("side", "out"), [(111, 55), (112, 56), (113, 56), (13, 6), (28, 14), (2, 1)])
def test_ceil_padding_leaves_out_no_pixel(side: int, out: int) -> None:
    """The sizes of SqueezeNet's 3 x 3 pools with stride 2 in Caffe and torch's ceil mode."""
    pool = MaxPool("p", ("x",), padding=ceil_padding((side, side), (3, 3), (2, 2)))
    assert pool.infer(((side, side, 8),)) == (out, out, 8)


def test_a_final_softmax_is_left_out_of_predictions() -> None:
    graph = bypass_network()
    probabilities = Graph((*graph.nodes, Softmax("softmax", (graph.output.name,))))
    assert without_softmax(probabilities).output.name == graph.output.name
    assert without_softmax(graph) is graph
