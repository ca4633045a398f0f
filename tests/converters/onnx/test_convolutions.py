from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.converters.onnx.importer import import_onnx
from emberfleet.core.arrays import Array
from emberfleet.core.errors import ConversionError, EmberError, FormatError
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D
from tests.converters.onnx.networks import check_same, flattened, model, node, weights

OPSETS = st.sampled_from((11, 13, 17, 22))


@dataclass(frozen=True)
class Sketch:
    """A convolution whose window fits its image."""

    shape: tuple[int, int, int]
    group: int
    outputs: int
    kernel: tuple[int, int]
    attributes: dict[str, Any]
    bias: bool


@st.composite
def convolutions(draw: st.DrawFn) -> Sketch:
    def number(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    group = number(1, 4)
    channels, outputs = group * number(1, 3), group * number(1, 3)
    size = (number(1, 9), number(1, 9))
    attributes: dict[str, Any] = {"strides": [number(1, 3), number(1, 3)], "group": group}
    mode = draw(st.sampled_from(("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")))
    kernel = (number(1, min(4, size[0])), number(1, min(4, size[1])))
    if mode == "NOTSET":
        attributes["pads"] = [number(0, 3) for _ in range(4)]
    else:
        attributes["auto_pad"] = mode
    if draw(st.booleans()):
        attributes["kernel_shape"] = kernel
    return Sketch((channels, *size), group, outputs, kernel, attributes, draw(st.booleans()))


@given(convolutions(), OPSETS)
@settings(max_examples=60)
def test_any_convolution_gives_the_image_of_onnx_runtime(sketch: Sketch, opset: int) -> None:
    constants: dict[str, Array] = {
        "w": weights(sketch.outputs, sketch.shape[0] // sketch.group, *sketch.kernel)
    }
    if sketch.bias:
        constants["b"] = weights(sketch.outputs, seed=2)
    conv = node("Conv", f"x {' '.join(constants)}", "image", **sketch.attributes)
    network = check_same(model([conv, *flattened("image")], ["N", *sketch.shape], constants, opset))
    depthwise = sketch.group == sketch.shape[0] > 1
    assert isinstance(network.graph.nodes[1], DepthwiseConv2D if depthwise else Conv2D)


def test_groups_become_a_dense_convolution_that_is_zero_between_them() -> None:
    conv = node("Conv", "x w", "image", group=2)
    network = check_same(
        model([conv, *flattened("image")], ["N", 4, 3, 3], {"w": weights(6, 2, 1, 1)}),
    )
    dense = network.tensors["Conv_image/weight"]
    assert dense.shape == (6, 1, 1, 4)
    assert not dense[:3, ..., 2:].any()
    assert not dense[3:, ..., :2].any()
    assert "2 groups" in network.remarks[0]


def test_depthwise_outputs_of_one_channel_lie_side_by_side() -> None:
    conv = node("Conv", "x w", "image", group=3, pads=[1, 1, 1, 1])
    network = check_same(model([conv, *flattened("image")], ["N", 3, 4, 5], {"w": weights(6, 1, 3, 3)}))
    (depthwise,) = (made for made in network.graph.nodes if isinstance(made, DepthwiseConv2D))
    assert depthwise.multiplier == 2


@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 3, 4), (1, 4, 4), (3, 1, 6)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_dense_layer_undoes_the_order_in_which_the_image_was_flattened(
    shape: tuple[int, int, int], transposed: int
) -> None:
    features = int(np.prod(shape))
    matrix = weights(7, features)
    constants = {"w": matrix if transposed else np.ascontiguousarray(matrix.T), "c": weights(7, seed=2)}
    nodes = [
        node("Flatten", "x", "flat"),
        node("Gemm", "flat w c", "y", transB=transposed, alpha=0.5, beta=2.0),
    ]
    check_same(model(nodes, ["N", *shape], constants))


@pytest.mark.parametrize("bias", [(), (1,), (4,), (1, 4)])
def test_a_bias_of_any_broadcast_shape_is_one_value_per_class(bias: tuple[int, ...]) -> None:
    nodes = [node("Flatten", "x", "flat"), node("Gemm", "flat w c", "y")]
    check_same(model(nodes, ["N", 2, 2, 2], {"w": weights(8, 4), "c": weights(*bias, seed=3)}))


def test_a_product_and_a_sum_are_one_layer_with_a_bias() -> None:
    nodes = [
        node("GlobalAveragePool", "x", "mean"),
        node("Reshape", "mean flat", "classes"),
        node("MatMul", "classes w", "product"),
        node("Add", "b product", "y"),
    ]
    constants = {"flat": np.array([-1, 3]), "w": weights(3, 5), "b": weights(5)}
    network = check_same(model(nodes, ["N", 3, 4, 4], constants))
    (layer,) = (made for made in network.graph.nodes if isinstance(made, Conv2D))
    assert layer.bias
    assert network.folded["into weights"] == 1


def test_layers_behind_each_other_keep_their_order() -> None:
    nodes = [
        node("Flatten", "x", "flat"), node("Gemm", "flat a", "hidden"), node("Relu", "hidden", "active"),
        node("Gemm", "active b", "y", transB=1),
    ]  # fmt: skip
    check_same(model(nodes, ["N", 2, 3, 2], {"a": weights(12, 6), "b": weights(4, 6)}))


@pytest.mark.parametrize(
    ("attributes", "shape", "wording"),
    [
        ({"dilations": [2, 2]}, (4, 3, 3, 3), r"Conv_.*dilations are \(2, 2\), expected 1"),
        ({"group": 2}, (4, 3, 3, 3), r"weights are \(4, 3, 3, 3\) in 2 groups, the image has 3 channels"),
        ({"group": 3}, (4, 1, 3, 3), "a multiple of the groups"),
        ({"kernel_shape": [2, 2]}, (4, 3, 3, 3), r"kernel_shape is \(2, 2\), the weights are \(3, 3\)"),
        ({"pads": [1, 1]}, (4, 3, 3, 3), "pads are"),
        ({"pads": [-1, 0, 0, 0]}, (4, 3, 3, 3), "expected four numbers from 0"),
        ({"strides": [0, 1]}, (4, 3, 3, 3), "strides is"),
        ({"auto_pad": "SAME"}, (4, 3, 3, 3), "auto_pad is 'SAME', expected NOTSET"),
        ({"auto_pad": 1}, (4, 3, 3, 3), "attribute 'auto_pad' is 1, expected a text"),
        ({"shiny": 1}, (4, 3, 3, 3), "attribute 'shiny' is not supported, expected of: kernel_shape"),
        ({}, (4, 3, 3), r"weights are \(4, 3, 3\), expected \(O, C / group, KH, KW\)"),
        ({}, (4, 3, 9, 9), "does not fit into the image"),
    ],
)
def test_a_convolution_that_is_not_supported_says_what_was_found(
    attributes: dict[str, Any], shape: tuple[int, ...], wording: str
) -> None:
    conv = node("Conv", "x w", "image", **attributes)
    with pytest.raises(ConversionError, match=wording):
        import_onnx(model([conv, *flattened("image")], ["N", 3, 6, 6], {"w": weights(*shape)}))


def test_weights_that_the_network_computes_are_refused() -> None:
    conv = node("Conv", "x x", "y")
    with pytest.raises(ConversionError, match=r"the weights.*is computed by the network, expected constants"):
        import_onnx(model([conv], ["N", 3, 6, 6]))


def test_weights_that_are_not_finite_are_refused() -> None:
    values = weights(2, 3, 1, 1)
    values[1, 0] = np.nan
    with pytest.raises(ConversionError, match="the weights holds values that are not finite"):
        import_onnx(model([node("Conv", "x w", "y")], ["N", 3, 6, 6], {"w": values}))


def test_a_matrix_for_another_image_is_refused() -> None:
    nodes = [node("Flatten", "x", "flat"), node("Gemm", "flat w", "y")]
    with pytest.raises(ConversionError, match=r"reads \(N, 12\) with weights of \(8, 4\), expected \(N, 8\)"):
        import_onnx(model(nodes, ["N", 3, 2, 2], {"w": weights(8, 4)}))


def test_groups_that_would_fill_the_memory_are_refused_before_they_are_made() -> None:
    many = 1 << 14
    conv = node("Conv", "x w", "image", group=many // 2)
    with pytest.raises(EmberError, match="expected at most") as raised:
        import_onnx(model([conv, *flattened("image")], [1, many, 1, 1], {"w": weights(many, 2, 1, 1)}))
    assert isinstance(raised.value, FormatError)
