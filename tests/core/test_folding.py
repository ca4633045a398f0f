from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.arrays import Float64
from emberfleet.core.errors import ShapeError
from emberfleet.core.folding import fold, without_norms
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    Add,
    BatchNorm,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Node,
    Relu,
)
from tests.core.networks import bypass_network, random_tensors


def _conv(x: Float64, w: Float64, b: Float64, pad: int) -> Float64:
    """Stride-1 convolution with symmetric padding, in float64."""
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[1:3], (1, 2))
    return np.asarray(np.einsum("nhwcij,oijc->nhwo", windows, w) + b)


def test_a_folded_convolution_computes_what_convolution_and_norm_did() -> None:
    graph = Graph(
        (
            Input("input", (), (6, 6, 3)),
            Conv2D("c", ("input",), 4, (3, 3), (1, 1), (1, 1, 1, 1), bias=True),
            BatchNorm("n", ("c",)),
            GlobalAveragePool("mean", ("n",)),
        )
    )
    t = random_tensors(graph)
    folded, held = fold(graph, t)
    assert [node.name for node in folded.nodes] == ["input", "c", "mean"]
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 3))
    wide = {name: value.astype(np.float64) for name, value in {**t, **held}.items()}
    z = _conv(x, t["c/weight"].astype(np.float64), t["c/bias"].astype(np.float64), 1)
    expected = (z - wide["n/mean"]) / np.sqrt(wide["n/variance"] + 1e-5) * wide["n/gamma"] + wide["n/beta"]
    got = _conv(x, wide["c/weight"], wide["c/bias"], 1)
    # Each folded weight is rounded once to float32; 27 products and a bias are summed.
    bound = 28 * 2.0**-24 * float(np.abs(wide["c/weight"]).max()) * float(np.abs(x).max())
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound + 2.0**-23)


def test_a_norm_behind_a_concat_is_split_among_the_branches() -> None:
    graph = bypass_network()
    t = random_tensors(graph)
    folded, held = fold(graph, t)
    factor = t["fire2/norm/gamma"] / np.sqrt(t["fire2/norm/variance"] + np.float32(1e-5))
    np.testing.assert_allclose(
        held["fire2/expand3x3/weight"], t["fire2/expand3x3/weight"] * factor[4:, None, None, None], rtol=1e-6
    )
    assert folded.by_name["fire2/relu"].inputs == ("fire2/concat",)


def test_dropout_is_gone_and_its_readers_read_on() -> None:
    folded, _ = fold(bypass_network(), random_tensors(bypass_network()))
    assert folded.by_name["classifier"].inputs == ("bypass2",)


def test_the_range_behind_a_norm_moves_to_the_convolution() -> None:
    graph = Graph(
        (
            Input("input", (), (2, 2, 1)),
            Conv2D("c", ("input",), 4),
            BatchNorm("n", ("c",)),
            GlobalAveragePool("m", ("n",)),
        )
    )
    _, held = fold(graph, random_tensors(graph))
    assert held["c/range"].tolist() == [-4, 4]
    assert "n/range" not in held


def test_a_norm_behind_a_depthwise_convolution_scales_its_channels() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 3)),
            DepthwiseConv2D("d", ("input",), 2, (2, 2), bias=False),
            BatchNorm("n", ("d",)),
            GlobalAveragePool("m", ("n",)),
        )
    )
    t = random_tensors(graph)
    folded, held = fold(graph, t)
    factor = t["n/gamma"] / np.sqrt(t["n/variance"] + np.float32(1e-5))
    np.testing.assert_allclose(held["d/weight"], t["d/weight"] * factor[:, None, None, None], rtol=1e-6)
    np.testing.assert_allclose(held["d/bias"], t["n/beta"] - t["n/mean"] * factor, rtol=1e-5, atol=1e-6)
    assert [node.name for node in folded.nodes] == ["input", "d", "m"]
    assert isinstance(folded.nodes[1], DepthwiseConv2D)
    assert folded.nodes[1].bias


@pytest.mark.parametrize(
    "nodes",
    [
        (MaxPool("p", ("input",)), BatchNorm("n", ("p",))),
        (Conv2D("c", ("input",), 4), Add("a", ("c", "input")), BatchNorm("n", ("a",))),
        (Conv2D("c", ("input",), 4), BatchNorm("n", ("c",)), Relu("r", ("c",)), Add("n2", ("n", "r"))),
        (Conv2D("c", ("input",), 2), Concat("j", ("c", "c")), BatchNorm("n", ("j",))),
    ],
    ids=[
        "after a pool",
        "after an addition",
        "after a convolution with other readers",
        "after one part twice",
    ],
)
def test_a_norm_that_nothing_takes_in_stays_or_becomes_a_depthwise_convolution(
    nodes: tuple[Node, ...],
) -> None:
    graph = Graph((Input("input", (), (5, 5, 4)), *nodes, GlobalAveragePool("m", (nodes[-1].name,))))
    t = random_tensors(graph)
    folded, held = fold(graph, t)
    assert folded == graph
    np.testing.assert_array_equal(held["n/variance"], t["n/variance"])
    lowered, held = without_norms(graph, t)
    assert lowered.by_name["n"] == DepthwiseConv2D("n", graph.by_name["n"].inputs, kernel=(1, 1))
    assert set(lowered.parameters) <= set(held)
    assert "n/gamma" not in held
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float64)
    wide = {name: value.astype(np.float64) for name, value in {**t, **held}.items()}
    expected = (x - wide["n/mean"]) / np.sqrt(wide["n/variance"] + 1e-5) * wide["n/gamma"] + wide["n/beta"]
    np.testing.assert_allclose(x * wide["n/weight"].ravel() + wide["n/bias"], expected, rtol=1e-5, atol=1e-5)


def test_a_missing_tensor_is_named() -> None:
    t = random_tensors(bypass_network())
    del t["conv1/weight"]
    with pytest.raises(ShapeError, match="'conv1/weight' is missing"):
        fold(bypass_network(), t)
