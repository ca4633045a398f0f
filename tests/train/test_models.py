"""The networks have the structure that was published, and the sizes that devices can hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from emberfleet.core.errors import ConfigError
from emberfleet.core.folding import fold
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Add, BatchNorm, Conv2D, DepthwiseConv2D, Dropout, MaxPool, Relu, Softmax
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.models import (
    MODELS,
    ModelChoice,
    build_model,
    linear,
    mobilenet,
    resnet,
    small_squeezenet,
    squeezenet_1_0,
    squeezenet_1_1,
    squeezenet_32,
    two_layer,
)


def parameter_count(graph: Graph) -> int:
    return sum(math.prod(shape) for shape in graph.parameters.values())


def test_squeezenet_1_0_has_the_published_parameters_and_sizes() -> None:
    graph = squeezenet_1_0(1000)
    assert parameter_count(graph) == 1_248_424
    assert [graph.shapes[f"pool{n}"] for n in (1, 4, 8)] == [(54, 54, 96), (27, 27, 256), (13, 13, 512)]
    assert graph.shapes[graph.output.name] == (1000,)


def test_squeezenet_1_1_has_the_published_parameters_and_sizes() -> None:
    graph = squeezenet_1_1(1000)
    assert parameter_count(graph) == 1_235_496
    assert [graph.shapes[f"pool{n}"] for n in (1, 3, 5)] == [(55, 55, 64), (27, 27, 128), (13, 13, 256)]


def test_squeezenet_for_small_images_keeps_their_size_and_normalises_instead_of_dropping_out() -> None:
    graph = squeezenet_32()
    assert parameter_count(graph) == 730_570
    assert graph.shapes["conv1"] == (32, 32, 64)
    assert graph.shapes["fire9/relu"] == (4, 4, 512)
    assert not any(isinstance(node, Dropout) for node in graph.nodes)
    assert [node.name for node in graph.nodes if isinstance(node, Conv2D) and node.bias] == ["conv10"]


def test_published_networks_keep_every_pixel_in_their_pools() -> None:
    pools = [node for node in squeezenet_1_0(10).nodes if isinstance(node, MaxPool)]
    assert [pool.padding for pool in pools] == [(0, 0, 0, 0), (0, 0, 1, 1), (0, 0, 0, 0)]


def test_published_networks_drop_out_before_conv10_and_rectify_after_it() -> None:
    names = [(type(n), n.name) for n in squeezenet_1_1(10).nodes[-4:-1]]
    assert names == [(Dropout, "dropout9"), (Conv2D, "conv10"), (Relu, "relu10")]


def test_small_network_fits_the_size_limit_of_a_device() -> None:
    assert parameter_count(small_squeezenet()) == 64_970


def test_convolutions_before_batch_norm_have_no_bias() -> None:
    graph = small_squeezenet()
    biased = [n.name for n in graph.nodes if isinstance(n, Conv2D) and n.bias]
    assert biased == ["head"]
    plain = small_squeezenet(batch_norm=False)
    assert all(n.bias for n in plain.nodes if isinstance(n, Conv2D))
    assert not any(isinstance(n, BatchNorm) for n in plain.nodes)


def test_fire_joins_its_branches_before_one_batch_norm() -> None:
    graph = small_squeezenet()
    assert [n.name for n in graph.nodes if n.name.startswith("fire2/")] == [
        "fire2/squeeze", "fire2/squeeze_norm", "fire2/squeeze_relu", "fire2/expand1x1",
        "fire2/expand3x3", "fire2/concat", "fire2/norm", "fire2/relu",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [28, 29, 32, 47, 48, 64, 96])
@pytest.mark.parametrize("positions", [1, 14])
def test_small_network_takes_every_size_of_its_range(size: int, positions: int) -> None:
    graph = small_squeezenet(size, 3, 26, 0.5, bypass=True, dropout=0.2, positions=positions)
    assert graph.shapes[graph.output.name] == ((26,) if positions == 1 else (14, 26))
    assert Graph.from_json(graph.to_json()) == graph


def test_width_scales_channels_in_multiples_of_eight() -> None:
    for width in (0.1, 0.5, 0.75, 1.3):
        convs = [n for n in small_squeezenet(width=width).nodes if isinstance(n, Conv2D)]
        assert all(n.channels % 8 == 0 and n.channels >= 8 for n in convs if n.name != "head")
    assert parameter_count(small_squeezenet(width=0.5)) < parameter_count(small_squeezenet()) / 2.5


def test_bypass_adds_the_input_of_fires_that_keep_their_width() -> None:
    added = [n for n in small_squeezenet(bypass=True).nodes if isinstance(n, Add)]
    assert [n.inputs for n in added] == [("fire2/relu", "fire3/relu"), ("fire4/relu", "fire5/relu")]


def test_mobilenet_has_the_published_parameters_and_sizes() -> None:
    graph = mobilenet()
    assert parameter_count(graph) == 4_231_976
    assert [graph.shapes[f"block{n}/relu"] for n in (2, 4, 6, 12, 14)] == [
        (112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512), (7, 7, 1024),
    ]  # fmt: skip
    assert sum(isinstance(node, DepthwiseConv2D) for node in graph.nodes) == 13


@pytest.mark.parametrize(("size", "strides"), [(224, 5), (128, 5), (127, 4), (64, 4), (32, 3), (8, 1)])
def test_mobilenet_keeps_small_images_from_vanishing(size: int, strides: int) -> None:
    graph = mobilenet(size, 1, 10, 0.25)
    halved = [n for n in graph.nodes if isinstance(n, Conv2D | DepthwiseConv2D) and n.stride == (2, 2)]
    assert len(halved) == strides
    assert graph.shapes["block14/relu"][0] >= 4
    assert graph.shapes["block14/relu"][2] == 256


def test_resnets_have_the_published_layers_and_parameters() -> None:
    assert parameter_count(resnet(20)) == 272_474
    graph = resnet(14, classes=7)
    assert sum(isinstance(n, Conv2D) for n in graph.nodes if "shortcut" not in n.name) == 14
    assert [n.inputs for n in graph.nodes if isinstance(n, Add)][1:3] == [
        ("block1_2/norm2", "block1_1/relu"), ("block2_1/norm2", "block2_1/shortcut_norm"),
    ]  # fmt: skip
    assert graph.shapes["block3_2/relu"] == (8, 8, 64)


@pytest.mark.parametrize("make", [mobilenet, lambda *choice: resnet(8, *choice)])
def test_mobilenets_and_resnets_read_codes_and_heed_their_width(make: Callable[..., Graph]) -> None:
    graph = make(48, 1, 26, 0.5, 4)
    assert graph.shapes[graph.output.name] == (4, 26)
    assert parameter_count(graph) < parameter_count(make(48, 1, 26, 1.0, 4)) / 2.5
    assert Graph.from_json(graph.to_json()) == graph


@pytest.mark.parametrize("graph", [mobilenet(8, 3, 4, 0.25), resnet(8, 28, classes=4)])
def test_mobilenets_and_resnets_fold_into_convolutions_and_additions(graph: Graph) -> None:
    pixels = Preprocessing(graph.input.shape[0], graph.input.shape[1], 3, (0.5,) * 3, (0.25,) * 3)
    folded, _ = fold(graph, initial_tensors(graph, 0, pixels))
    assert not any(isinstance(node, BatchNorm) for node in folded.nodes)


def test_classic_networks_see_the_whole_image() -> None:
    assert parameter_count(linear()) == 784 * 10 + 10
    assert parameter_count(two_layer(hidden=64)) == 784 * 64 + 64 + 64 * 10 + 10


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_by_name_ends_in_logits(name: str) -> None:
    channels = 3 if name.startswith("squeezenet") else 1
    graph = build_model(name, ModelChoice(size=32, channels=channels, classes=7))
    assert graph.shapes[graph.output.name] == (7,)
    assert not any(isinstance(node, Softmax) for node in graph.nodes)


@pytest.mark.parametrize(
    ("name", "choice", "words"),
    [
        ("alexnet", ModelChoice(28, 1, 10), "alexnet"),
        ("small", ModelChoice(20, 1, 10), "28 to 96"),
        ("small", ModelChoice(28, 1, 10, width=0.0), "width"),
        ("squeezenet_1_1", ModelChoice(224, 1, 10), "colour"),
        ("linear", ModelChoice(28, 1, 10, positions=4), "one class per image"),
        ("mobilenet", ModelChoice(7, 1, 10), "8 pixels or more"),
        ("mobilenet", ModelChoice(28, 1, 10, width=-1.0), "width"),
        ("resnet_14", ModelChoice(224, 3, 10), "28 to 96"),
        ("resnet_8", ModelChoice(28, 1, 10, width=0.0), "width"),
    ],
)
def test_a_choice_that_cannot_be_built_says_why(name: str, choice: ModelChoice, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model(name, choice)


@pytest.mark.parametrize("depth", [2, 9, 15])
def test_a_depth_that_is_no_resnet_is_refused(depth: int) -> None:
    with pytest.raises(ConfigError, match="6n \\+ 2"):
        resnet(depth)
