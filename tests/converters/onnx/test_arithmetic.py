from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emberfleet.converters.onnx.importer import import_onnx
from emberfleet.core.arrays import Array
from emberfleet.core.errors import ConversionError
from emberfleet.core.nodes import BatchNorm, ClippedRelu, Conv2D, DepthwiseConv2D, Relu, Softmax
from tests.converters.onnx.networks import check_same, flattened, model, node, weights

SHAPE = ("N", 3, 4, 5)


def number(value: float) -> Array:
    return np.array(value, np.float32)


@pytest.mark.parametrize("opset", [11, 12, 13, 22])
@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0, 6, ClippedRelu), (0, 1.5, ClippedRelu), (0, None, Relu), (0, np.inf, Relu), (0, 3.4028235e38, Relu)],
)
def test_a_clip_from_zero_is_a_relu(opset: int, low: float, high: float | None, kind: type) -> None:
    constants = {"low": number(low)} | ({} if high is None else {"high": number(high)})
    nodes = [node("Clip", f"x {' '.join(constants)}", "image"), *flattened("image")]
    network = check_same(model(nodes, SHAPE, constants, opset))
    assert type(network.graph.nodes[1]) is kind


def test_a_clip_without_bounds_is_nothing() -> None:
    nodes = [node("Relu", "x", "a"), node("Clip", "a", "image"), *flattened("image")]
    assert check_same(model(nodes, SHAPE)).folded["identities"] == 1


def test_a_clip_from_another_number_is_refused() -> None:
    nodes = [node("Clip", "x low high", "image"), *flattened("image")]
    with pytest.raises(ConversionError, match=r"Clip_image.*clips to -1.0 ... 1.0, expected 0"):
        import_onnx(model(nodes, SHAPE, {"low": number(-1), "high": number(1)}))


@pytest.mark.parametrize("order", ["x zero", "zero x"])
def test_the_larger_of_zero_and_the_smaller_of_a_number_are_a_clipped_relu(order: str) -> None:
    nodes = [node("Max", order, "active"), node("Min", "active six", "image"), *flattened("image")]
    network = check_same(model(nodes, SHAPE, {"zero": number(0), "six": number(0.5)}))
    (clipped,) = (made for made in network.graph.nodes if isinstance(made, ClippedRelu))
    assert clipped.ceiling == 0.5


def norm(source: str, target: str, **attributes: Any) -> Any:
    return node("BatchNormalization", f"{source} gamma beta mean variance", target, **attributes)


def statistics(channels: int) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    values = {"gamma": rng.normal(size=channels), "beta": rng.normal(size=channels)}
    values |= {"mean": rng.normal(size=channels), "variance": rng.uniform(0.1, 2, channels)}
    return {name: value.astype(np.float32) for name, value in values.items()}


@pytest.mark.parametrize("opset", [11, 14, 15, 22])
def test_batch_norm_behind_a_convolution_stays_a_batch_norm(opset: int) -> None:
    nodes = [node("Conv", "x w", "c"), norm("c", "image", epsilon=0.01, momentum=0.75), *flattened("image")]
    network = check_same(model(nodes, SHAPE, {"w": weights(4, 3, 2, 2), **statistics(4)}, opset))
    (made,) = (found for found in network.graph.nodes if isinstance(found, BatchNorm))
    assert made.epsilon == pytest.approx(0.01)
    assert made.momentum == 0.75


def test_batch_norm_behind_a_pool_or_a_dense_layer() -> None:
    nodes = [
        node("MaxPool", "x", "p", kernel_shape=[2, 2]),
        norm("p", "n"),
        node("GlobalAveragePool", "n", "m"),
        node("Flatten", "m", "f"),
        node("Gemm", "f w", "d", transB=1),
        norm("d", "y"),
    ]
    network = check_same(model(nodes, SHAPE, {"w": weights(3, 3), **statistics(3)}))
    assert [made.kind for made in network.graph.nodes].count("batch_norm") == 2


def test_batch_norm_of_the_image_is_part_of_the_preprocessing() -> None:
    constants = {"w": weights(4, 3, 2, 2), **statistics(3)}
    constants["gamma"] = np.abs(constants["gamma"])
    nodes = [norm("x", "n"), node("Conv", "n w", "image"), *flattened("image")]
    network = check_same(model(nodes, SHAPE, constants))
    assert network.folded["into the preprocessing"] == 1
    assert network.input_scale != (1.0, 1.0, 1.0)


def test_a_variance_below_zero_is_refused() -> None:
    constants = {**statistics(3), "variance": np.full(3, -1, np.float32)}
    with pytest.raises(ConversionError, match="are not positive"):
        import_onnx(model([norm("x", "image"), *flattened("image")], SHAPE, constants))


OPERANDS = [
    ("Add", "c k", (1,)), ("Add", "k c", (3, 1, 1)), ("Sub", "c k", (1, 3, 1, 1)), ("Sub", "k c", (3, 1, 1)),
    ("Mul", "k c", (3, 1, 1)), ("Div", "c k", ()), ("Div", "c k", (3, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "order", "shape"), OPERANDS)
@pytest.mark.parametrize("before", ["conv", "depthwise", "norm", "pool", "shared"])
def test_arithmetic_with_constants_goes_into_weights_or_becomes_a_convolution(
    operator: str, order: str, shape: tuple[int, ...], before: str
) -> None:
    constants: dict[str, Array] = {"k": np.abs(weights(*shape)) + number(0.5), "w": weights(3, 3, 2, 2)}
    constants |= {"d": weights(3, 1, 2, 2), **statistics(3)}
    nodes = {
        "conv": [node("Conv", "x w", "c")],
        "depthwise": [node("Conv", "x d", "c", group=3)],
        "norm": [node("Conv", "x w", "b"), norm("b", "c")],
        "pool": [node("MaxPool", "x", "c", kernel_shape=[2, 2])],
        "shared": [node("Conv", "x w", "c"), node("Relu", "c", "other")],
    }[before]
    nodes.append(node(operator, order, "image"))
    if before == "shared":
        nodes.append(node("Add", "image other", "sum"))
    nodes += flattened("sum" if before == "shared" else "image")
    network = check_same(model(nodes, SHAPE, constants))
    lone = [made for made in network.graph.nodes if made.name.startswith(operator)]
    if before in ("pool", "shared"):
        assert isinstance(lone[0], DepthwiseConv2D)
    else:
        assert network.folded["into weights"] == 1
        assert not lone


@pytest.mark.parametrize(("operator", "order", "shape"), OPERANDS)
def test_arithmetic_on_the_image_is_part_of_the_preprocessing_where_it_can_be(
    operator: str, order: str, shape: tuple[int, ...]
) -> None:
    constants = {"k": np.abs(weights(*shape)) + number(0.5), "w": weights(3, 3, 2, 2)}
    nodes = [node(operator, order.replace("c", "x"), "n"), node("Conv", "n w", "image"), *flattened("image")]
    network = check_same(model(nodes, SHAPE, constants))
    turned = (operator, order) == ("Sub", "k c")
    assert ("into the preprocessing" in network.folded) is not turned


def test_arithmetic_that_changes_nothing_is_left_out() -> None:
    nodes = [
        node("MaxPool", "x", "p", kernel_shape=[2, 2]),
        node("Mul", "p one", "image"),
        *flattened("image"),
    ]
    network = check_same(model(nodes, SHAPE, {"one": number(1)}))
    assert network.folded["identities"] == 1


@pytest.mark.parametrize(
    ("operator", "order", "shape", "wording"),
    [
        ("Mul", "x k", (4, 5), r"its constant has the shape \(4, 5\) beside \(N, 3, 4, 5\)"),
        ("Add", "x k", (2, 3, 4, 5), "its constant has the shape"),
        ("Add", "x k", (1, 1, 1, 1, 1), "its constant has the shape"),
        ("Mul", "x x", (1,), "combines two tensors of the network"),
        ("Div", "k x", (1,), "divides by the tensor or by zero"),
    ],
)
def test_arithmetic_that_is_not_per_channel_is_refused(
    operator: str, order: str, shape: tuple[int, ...], wording: str
) -> None:
    nodes = [node(operator, order, "image"), *flattened("image")]
    with pytest.raises(ConversionError, match=wording):
        import_onnx(model(nodes, SHAPE, {"k": weights(*shape)}))


def test_a_sum_of_two_branches() -> None:
    nodes = [
        node("Conv", "x w", "a"),
        node("MaxPool", "x", "b", kernel_shape=[2, 2]),
        node("Add", "a b", "image"),
        *flattened("image"),
    ]
    check_same(model(nodes, SHAPE, {"w": weights(3, 3, 2, 2)}))


def test_a_sum_of_classes_from_a_mean_and_from_a_layer() -> None:
    nodes = [
        node("GlobalAveragePool", "x", "m"),
        node("Flatten", "m", "a"),
        node("Gemm", "a w", "b"),
        node("Add", "a b", "y"),
    ]
    check_same(model(nodes, SHAPE, {"w": weights(3, 3)}))


def test_a_sum_that_is_broadcast_is_refused() -> None:
    nodes = [node("GlobalAveragePool", "x", "m"), node("Add", "x m", "image"), *flattened("image")]
    with pytest.raises(
        ConversionError, match=r"adds \(N, 3, 4, 5\) and \(N, 3, 1, 1\), expected tensors of one"
    ):
        import_onnx(model(nodes, SHAPE))


def test_channels_joined_in_order_and_twice() -> None:
    nodes = [
        node("Conv", "x w", "a"),
        node("MaxPool", "x", "b", kernel_shape=[2, 2]),
        node("Concat", "a b a", "image", axis=-3),
        *flattened("image"),
    ]
    check_same(model(nodes, SHAPE, {"w": weights(2, 3, 2, 2)}))


def test_classes_joined() -> None:
    nodes = [
        node("GlobalAveragePool", "x", "m"),
        node("Flatten", "m", "a"),
        node("Gemm", "a w", "b"),
        node("Concat", "b a", "y", axis=1),
    ]
    check_same(model(nodes, SHAPE, {"w": weights(3, 2)}))


@pytest.mark.parametrize("axis", [0, 2, 3, 7])
def test_rows_or_batches_joined_are_refused(axis: int) -> None:
    nodes = [node("Relu", "x", "a"), node("Concat", "x a", "image", axis=axis), *flattened("image")]
    with pytest.raises(ConversionError, match="expected the channels: axis 1"):
        import_onnx(model(nodes, SHAPE))


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 22])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_a_softmax_over_the_classes_stays(opset: int, axis: int | None) -> None:
    given = {} if axis is None else {"axis": axis}
    nodes = [
        node("GlobalAveragePool", "x", "m"),
        node("Flatten", "m", "classes"),
        node("Softmax", "classes", "y", **given),
    ]
    network = check_same(model(nodes, SHAPE, opset=opset))
    assert isinstance(network.graph.output, Softmax)


def test_a_softmax_over_channels_of_one_pixel() -> None:
    nodes = [
        node("GlobalAveragePool", "x", "m"),
        node("Softmax", "m", "s", axis=1),
        node("Flatten", "s", "y"),
    ]
    check_same(model(nodes, SHAPE))


def test_a_softmax_over_rows_is_refused() -> None:
    nodes = [
        node("GlobalAveragePool", "x", "m"),
        node("Reshape", "m to", "p"),
        node("Softmax", "p", "y", axis=1),
    ]
    with pytest.raises(ConversionError, match="expected along the classes"):
        import_onnx(model(nodes, ("N", 6, 4, 5), {"to": np.array([-1, 2, 3])}))


def test_a_softmax_in_the_middle_is_refused() -> None:
    nodes = [
        node("GlobalAveragePool", "x", "m"),
        node("Flatten", "m", "f"),
        node("Softmax", "f", "s"),
        node("Gemm", "s w", "y"),
    ]
    with pytest.raises(ConversionError, match="only the last node may be a softmax"):
        import_onnx(model(nodes, SHAPE, {"w": weights(3, 3)}))


def test_dropout_keeps_its_rate_and_does_nothing_in_inference() -> None:
    nodes = [
        node("Dropout", "x rate", "d"),
        node("Conv", "d w", "c"),
        node("Dropout", "c zero", "image"),
        *flattened("image"),
    ]
    constants = {"rate": number(0.25), "zero": number(0), "w": weights(2, 3, 2, 2)}
    network = check_same(model(nodes, SHAPE, constants))
    assert [made.kind for made in network.graph.nodes[:3]] == ["input", "dropout", "conv2d"]
    assert network.graph.nodes[1].rate == 0.25  # type: ignore[attr-defined]
    assert isinstance(network.graph.nodes[2], Conv2D)
