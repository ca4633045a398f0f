from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from emberfleet.core.errors import ConversionError, FormatError, QuantError
from emberfleet.core.graph import (
    Add,
    BatchNorm,
    Concat,
    Conv2D,
    GlobalAveragePool,
    Graph,
    Input,
    MaxPool,
    Relu,
    Softmax,
)
from emberfleet.core.integer import (
    IntegerAdd,
    IntegerConcat,
    IntegerConv,
    IntegerNetwork,
    IntegerRelu,
    output_limits,
    quantize,
)
from emberfleet.core.integer_codec import decode_network, encode_network
from emberfleet.core.quantization import QuantParams
from tests.core.networks import bypass_network, random_tensors


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


def test_a_tensor_read_before_and_after_its_norm_cannot_be_folded() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 1)),
            Conv2D("c", ("input",), 2),
            BatchNorm("n", ("c",)),
            Concat("j", ("c", "n")),
            GlobalAveragePool("m", ("j",)),
        )
    )
    with pytest.raises(ConversionError, match="is read by"):
        quantize(graph, random_tensors(graph))


@pytest.mark.parametrize("positions", [1, 3])
def test_the_network_survives_its_codec(positions: int) -> None:
    network = _network(positions)
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


def test_concat_reads_its_branches_in_order() -> None:
    op = next(op for op in _network().ops if isinstance(op, IntegerConcat))
    assert op.inputs == ("fire2/expand1x1", "fire2/expand3x3")
