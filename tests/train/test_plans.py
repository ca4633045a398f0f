from __future__ import annotations

import itertools

import pytest

from emberfleet.core.errors import ConfigError
from emberfleet.core.quantization import quantization_points
from emberfleet.train.models import linear, small_squeezenet, squeezenet_1_1
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
