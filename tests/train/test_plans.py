from __future__ import annotations

import itertools

import numpy as np
import pytest

from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D, Input, Reshape
from emberfleet.core.quantization import quantization_points
from emberfleet.train.calibration.pools import spread_pools, spread_pools_of
from emberfleet.train.models import linear, mobilenet, small_squeezenet, squeezenet_1_1
from emberfleet.train.plans import retraining_plans, scope_named
from tests.core.networks import bypass_network


def test_the_head_is_the_classifier_and_its_range() -> None:
    head = retraining_plans(small_squeezenet())["head"]
    assert head.parameters == ("head/weight", "head/bias")
    assert head.statistics == ()
    assert len(head.ranges) == 1


def test_full_is_everything_but_the_range_of_the_input() -> None:
    graph = small_squeezenet()
    full = retraining_plans(graph)["full"]
    assert full.parameters == tuple(graph.parameters)
    assert full.statistics == tuple(graph.state)
    assert set(full.ranges) == set(quantization_points(graph).values()) - {"input/range"}


def test_the_last_fires_begin_at_a_squeeze() -> None:
    scope = retraining_plans(small_squeezenet())["last-2-fires"]
    assert scope.parameters[0] == "fire5/squeeze/weight"
    assert "fire6/norm/mean" in scope.statistics
    assert not any(name.startswith("fire4") for name in scope.tensors)


def test_a_squeezenet_has_one_scope_for_each_of_its_eight_fires() -> None:
    plans = retraining_plans(squeezenet_1_1(10, 64))
    assert list(plans) == ["head", *(f"last-{k}-fires" for k in range(1, 9)), "full"]


def test_each_scope_holds_the_smaller_ones() -> None:
    plans = list(retraining_plans(bypass_network()).values())
    for smaller, larger in itertools.pairwise(plans):
        assert set(smaller.tensors) < set(larger.tensors)


def test_a_network_without_fires_has_a_head_and_all() -> None:
    assert list(retraining_plans(linear())) == ["head", "full"]


def test_an_unknown_scope_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="head, full"):
        scope_named(linear(), "last-2-fires")
    assert scope_named(small_squeezenet(), "last-1-fire").name == "last-1-fires"


@pytest.mark.parametrize("graph", [small_squeezenet(), mobilenet(32, 3, 4, 0.25), squeezenet_1_1(10, 64)])
def test_a_pool_that_calibration_has_spread_learns_in_no_scope_but_its_ranges_move(graph: Graph) -> None:
    zeros = {name: np.zeros(shape, np.float32) for name, shape in graph.parameters.items()}
    spread, _ = spread_pools(graph, zeros)
    pools = spread_pools_of(spread)
    assert len(pools) == 2
    before, after = retraining_plans(graph), retraining_plans(spread)
    assert list(after) == list(before)
    for name, scope in after.items():
        assert scope.parameters == before[name].parameters, name
        assert scope.statistics == before[name].statistics
        assert {f"{pool}/range" for pool in pools} <= set(scope.ranges)


def test_a_depthwise_convolution_of_that_name_that_is_no_pool_learns() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 2)),
            Conv2D("head", ("input",), 2),
            DepthwiseConv2D("scores/rows", ("head",), 1, (3, 1)),
            DepthwiseConv2D("scores/columns", ("scores/rows",), 1, (1, 4)),
            Reshape("scores", ("scores/columns",), (4,)),
        )
    )
    assert spread_pools_of(graph) == ()
    assert "scores/rows/weight" in retraining_plans(graph)["head"].parameters
