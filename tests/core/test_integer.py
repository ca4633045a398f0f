from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from emberfleet.core.errors import FormatError, QuantError
from emberfleet.core.graph import Graph
from emberfleet.core.integer import (
    IntegerAdd,
    IntegerConcat,
    IntegerConv,
    IntegerDepthwiseConv,
    IntegerNetwork,
    IntegerRelu,
    IntegerWindowAveragePool,
    output_limits,
)
from emberfleet.core.integer_codec import decode_network, encode_network
from emberfleet.core.lowering import quantize
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    BatchNorm,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Relu,
    Softmax,
)
from emberfleet.core.quantization import QuantParams
from tests.core.networks import bypass_network, mobile_network, random_tensors


def _network(positions: int = 1) -> IntegerNetwork:
    graph = bypass_network(positions)
    return quantize(graph, random_tensors(graph))


def test_a_chain_becomes_one_operation_with_the_scale_of_its_end() -> None:
    network = _network()
    outputs = [op.output for op in network.ops]
    assert outputs == [
        "conv1/relu",
        "pool1",
        "fire2/squeeze/relu",
        "fire2/expand1x1",
        "fire2/expand3x3",
        "fire2/relu",
        "bypass2",
        "classifier",
        "average",
    ]
    branches = [op for op in network.ops if op.output.startswith("fire2/expand")]
    assert all(isinstance(op, IntegerConv) and op.relu for op in branches)
    assert network.tensors["fire2/expand1x1"].params == network.tensors["fire2/relu"].params


def test_the_bias_counts_in_input_scale_times_weight_scale() -> None:
    graph = Graph((Input("input", (), (2, 2, 1)), Conv2D("c", ("input",), 2), GlobalAveragePool("m", ("c",))))
    t = random_tensors(graph)
    t["c/weight"] = np.array([1.27, -0.5], np.float32).reshape(2, 1, 1, 1)
    t["c/bias"] = np.array([0.1, -0.2], np.float32)
    op = quantize(graph, t).ops[0]
    assert isinstance(op, IntegerConv)
    assert op.weights.ravel().tolist() == [127, -127]
    np.testing.assert_array_equal(op.bias, np.rint(np.array([0.1 / 0.01, -0.2 / (0.5 / 127)]) * 255))


@pytest.mark.parametrize("weight", [1e-12, 1e-30, 1e-42, 0.0, 0.3])
@pytest.mark.parametrize("bias", [0.75, -0.01])
def test_a_channel_that_is_all_but_switched_off_keeps_its_bias(weight: float, bias: float) -> None:
    graph = Graph(
        (
            Input("input", (), (2, 2, 1)),
            DepthwiseConv2D("c", ("input",), 2, (1, 1)),
            GlobalAveragePool("m", ("c",)),
        )
    )
    t = random_tensors(graph)
    t["c/range"] = np.array([-1, 1], np.float32)
    t["c/weight"] = np.array([weight, 0.5], np.float32).reshape(2, 1, 1, 1)
    t["c/bias"] = np.array([bias, 0.0], np.float32)
    op = quantize(graph, t).ops[0]
    assert isinstance(op, IntegerDepthwiseConv)
    factor = int(op.multiplier[0]) * 2.0 ** (int(op.shift[0]) - 31)
    assert int(op.bias[0]) * factor * 2 / 255 == pytest.approx(bias, abs=1e-4)
    assert op.weights[1].item() == 127
    if weight == 0.3:
        assert op.weights[0].item() == 127


def test_a_softmax_is_left_to_the_host() -> None:
    graph = Graph(
        (
            Input("input", (), (2, 2, 1)),
            Conv2D("c", ("input",), 2),
            GlobalAveragePool("m", ("c",)),
            Softmax("s", ("m",)),
        )
    )
    assert quantize(graph, random_tensors(graph)).output == "m"


def test_a_relu_that_nothing_can_take_in_stands_alone() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 1)),
            Conv2D("c", ("input",), 2),
            MaxPool("p", ("c",), (2, 2), (2, 2)),
            Relu("r", ("p",)),
            Add("a", ("r", "p")),
            GlobalAveragePool("m", ("a",)),
        )
    )
    network = quantize(graph, random_tensors(graph))
    assert [type(op) for op in network.ops][2:4] == [IntegerRelu, IntegerAdd]


def test_a_fused_relu_starts_at_the_zero_point() -> None:
    op = next(op for op in _network().ops if isinstance(op, IntegerConv))
    assert output_limits(op, QuantParams(0.1, -3)) == (-3, 127)
    assert output_limits(op, QuantParams(0.1, -128)) == (-128, 127)


def test_a_model_without_ranges_says_to_calibrate() -> None:
    t = random_tensors(bypass_network())
    del t["bypass2/range"]
    with pytest.raises(QuantError, match="calibrate"):
        quantize(bypass_network(), t)


def test_weights_that_are_not_finite_are_refused() -> None:
    t = random_tensors(bypass_network())
    t["conv1/weight"][0, 0, 0, 0] = np.nan
    with pytest.raises(QuantError, match="not finite"):
        quantize(bypass_network(), t)


def test_a_norm_that_nothing_takes_in_becomes_a_depthwise_convolution() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 1)),
            Conv2D("c", ("input",), 2),
            BatchNorm("n", ("c",)),
            Concat("j", ("c", "n")),
            GlobalAveragePool("m", ("j",)),
        )
    )
    ops = quantize(graph, random_tensors(graph)).ops
    assert [op.output for op in ops] == ["c", "n", "j", "m"]
    assert isinstance(ops[1], IntegerDepthwiseConv)
    assert np.abs(ops[1].weights).tolist() == [[[[127]]]] * 2


def test_depthwise_convolutions_and_pools_take_their_places() -> None:
    network = quantize(mobile_network(), random_tensors(mobile_network()))
    kinds = {op.output: type(op) for op in network.ops}
    assert list(kinds) == [
        "stem/relu", "block1/depthwise/relu", "block1/pointwise", "block1/add", "block2/relu",
        "block2/depthwise", "block2/pool", "block2/out", "block3/pool", "block3/relu", "block3/conv",
        "block3/concat", "block3/norm", "block3/out", "classifier", "average",
    ]  # fmt: skip
    assert kinds["block2/pool"] is IntegerWindowAveragePool
    depthwise = {op.output: op for op in network.ops if isinstance(op, IntegerDepthwiseConv)}
    assert {name: (op.depth_multiplier, op.relu) for name, op in depthwise.items()} == {
        "block1/depthwise/relu": (2, True),
        "block2/relu": (1, True),
        "block2/depthwise": (1, False),
        "block3/norm": (1, False),
        "block3/out": (1, True),
    }
    assert depthwise["block1/depthwise/relu"].weights.shape == (8, 3, 3, 1)
    highs = {name: network.tensors[name].params.high for name in ("block1/depthwise/relu", "block2/out")}
    assert highs == pytest.approx({"block1/depthwise/relu": 1.5, "block2/out": 3.0}, abs=0.02)


def test_a_clipped_relu_on_a_wider_scale_than_its_own_is_rescaled_into_it() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 1)),
            Conv2D("c", ("input",), 2),
            ClippedRelu("six", ("c",)),
            Conv2D("d", ("input",), 2),
            Concat("j", ("six", "d")),
            GlobalAveragePool("m", ("j",)),
        )
    )
    t = random_tensors(graph)
    t["j/range"] = np.array([-2, 10], np.float32)
    network = quantize(graph, t)
    first, second, third = network.ops[:3]
    assert isinstance(first, IntegerConv)
    assert isinstance(second, IntegerRelu)
    assert (first.output, second.input, second.output, third.output) == (
        "six/clipped", "six/clipped", "six", "d",
    )  # fmt: skip
    assert network.tensors["six/clipped"].params.high == pytest.approx(6.0, abs=0.02)
    assert network.tensors["six"].params == network.tensors["j"].params
    t["j/range"] = np.array([-2, 5], np.float32)
    assert [op.output for op in quantize(graph, t).ops] == ["six", "d", "j", "m"]


def test_every_tensor_that_shares_a_scale_with_clipped_relus_alone_is_held_to_the_highest_ceiling() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 1)),
            Conv2D("c", ("input",), 2),
            ClippedRelu("three", ("c",), 3.0),
            Conv2D("d", ("input",), 2),
            ClippedRelu("six", ("d",)),
            Concat("j", ("three", "six")),
            AveragePool("p", ("j",)),
            GlobalAveragePool("m", ("p",)),
        )
    )
    t = random_tensors(graph)
    t["j/range"] = np.array([0, 20], np.float32)
    network = quantize(graph, t)
    highs = {name: round(tensor.params.high, 3) for name, tensor in network.tensors.items()}
    assert highs == {
        "input": 1.0, "three/clipped": 3.0, "three": 6.0, "six": 6.0, "j": 6.0, "p": 6.0, "m": 6.0,
    }  # fmt: skip


@pytest.mark.parametrize("graph", [bypass_network(), bypass_network(3), mobile_network()])
def test_the_network_survives_its_codec(graph: Graph) -> None:
    network = quantize(graph, random_tensors(graph))
    text, arrays = encode_network(network)
    back = decode_network(text, arrays)
    again, arrays_again = encode_network(back)
    assert again == text
    assert back.tensors == network.tensors
    for name, array in arrays.items():
        np.testing.assert_array_equal(arrays_again[name], array)


def _set(path: list[Any], value: object) -> Callable[[Any, dict[str, Any]], None]:
    def change(document: Any, arrays: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def _drop_array(document: Any, arrays: dict[str, Any]) -> None:
    del arrays["classifier/bias"]


def _widen_weights(document: Any, arrays: dict[str, Any]) -> None:
    arrays["classifier/weights"] = np.zeros((5, 1, 1, 9), np.int8)


def _float_weights(document: Any, arrays: dict[str, Any]) -> None:
    arrays["classifier/weights"] = arrays["classifier/weights"].astype(np.float32)


def _negative_multiplier(document: Any, arrays: dict[str, Any]) -> None:
    arrays["classifier/multiplier"] = -arrays["classifier/multiplier"]


def _repeat_op(document: Any, arrays: dict[str, Any]) -> None:
    document["ops"].append(document["ops"][-1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set(["format"], 2), "format 1"),
        (_set(["ops", 0, "kind"], "exec"), "KeyError"),
        (_set(["ops", 0, "inputs"], ["pool1"]), "before it is written"),
        (_set(["ops", 0, "inputs"], []), "inputs"),
        (_set(["ops", 0, "stride"], [0, 1]), "whole number"),
        (_set(["ops", 0, "stride"], [2, 2]), "has shape"),
        (_set(["ops", 0, "padding"], [70000, 0, 0, 0]), "whole number"),
        (_set(["ops", 0, "relu"], 1), "true or false"),
        (_set(["ops", 6, "shifts"], [0, 0, 5]), "whole number"),
        (_set(["tensors", 2, "scale"], -1.0), "scale"),
        (_set(["tensors", 2, "scale"], 0.5), "not on the scale"),
        (_set(["tensors", 2, "zero_point"], 300), "whole number"),
        (_set(["tensors", 2, "shape"], [1 << 20, 1, 1]), "whole number"),
        (_set(["tensors", 2, "shape"], [60000, 60000, 8]), "has shape"),
        (_set(["output"], "conv1/relu"), "is not written or not"),
        (_drop_array, "KeyError"),
        (_widen_weights, "want 9 channels"),
        (_float_weights, "float32"),
        (_negative_multiplier, "multipliers out of range"),
        (_repeat_op, "written twice"),
    ],
)
def test_a_network_that_does_not_fit_together_is_refused(
    change: Callable[[Any, dict[str, Any]], None], said: str
) -> None:
    text, arrays = encode_network(_network())
    document = json.loads(text)
    change(document, arrays)
    with pytest.raises(FormatError, match=said):
        decode_network(json.dumps(document), arrays)


def _deep_weights(document: Any, arrays: dict[str, Any]) -> None:
    arrays["block2/depthwise/weights"] = np.zeros((8, 2, 3, 8), np.int8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set(["ops", 5, "depth_multiplier"], 2), "for 2 outputs per channel"),
        (_set(["ops", 5, "depth_multiplier"], 0), "whole number"),
        (_set(["ops", 5, "depth_multiplier"], True), "whole number"),
        (_set(["ops", 5, "kind"], "conv"), "want 1 channels"),
        (_set(["ops", 6, "padding"], [2, 0, 0, 0]), "would hold no pixel"),
        (_set(["ops", 6, "kernel"], [3, 3]), "has shape"),
        (_set(["tensors", 7, "scale"], 0.5), "not on the scale"),
        (_deep_weights, r"weights are \(8, 2, 3, 8\)"),
    ],
)
def test_depthwise_convolutions_and_pools_that_do_not_fit_are_refused(
    change: Callable[[Any, dict[str, Any]], None], said: str
) -> None:
    text, arrays = encode_network(quantize(mobile_network(), random_tensors(mobile_network())))
    document = json.loads(text)
    assert [document["ops"][place]["kind"] for place in (5, 6)] == ["depthwise_conv", "window_average_pool"]
    change(document, arrays)
    with pytest.raises(FormatError, match=said):
        decode_network(json.dumps(document), arrays)


def test_concat_reads_its_branches_in_order() -> None:
    op = next(op for op in _network().ops if isinstance(op, IntegerConcat))
    assert op.inputs == ("fire2/expand1x1", "fire2/expand3x3")
