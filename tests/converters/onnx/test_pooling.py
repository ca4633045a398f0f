from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.converters.onnx.importer import import_onnx
from emberfleet.core.arrays import Array
from emberfleet.core.errors import ConversionError
from emberfleet.core.nodes import DepthwiseConv2D, GlobalAveragePool, MaxPool
from tests.converters.onnx.networks import check_same, flattened, model, node, weights


@st.composite
def pools(draw: st.DrawFn) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """An image and a window that fits it, its padding below the kernel as ONNX Runtime wants it."""

    def number(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    size = (number(1, 9), number(1, 9))
    kernel = [number(1, min(4, extent)) for extent in size]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": [number(1, 3), number(1, 3)]}
    mode = draw(st.sampled_from(("NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")))
    if mode == "NOTSET":
        attributes["pads"] = [number(0, kernel[axis] - 1) for axis in (0, 1, 0, 1)]
        attributes["ceil_mode"] = number(0, 1)
    else:
        attributes["auto_pad"] = mode
        # ONNX Runtime finds negative padding where SAME steps over pixels.
        attributes["strides"] = [min(s, k) for s, k in zip(attributes["strides"], kernel, strict=True)]
    return (number(1, 3), *size), attributes


@given(pools(), st.sampled_from((11, 12, 17, 22)))
@settings(max_examples=80)
def test_any_max_pool_gives_the_image_of_onnx_runtime(
    sketch: tuple[tuple[int, int, int], dict[str, Any]], opset: int
) -> None:
    shape, attributes = sketch
    nodes = [node("MaxPool", "x", "image", **attributes), *flattened("image")]
    network = check_same(model(nodes, ["N", *shape], opset=opset))
    assert isinstance(network.graph.nodes[1], MaxPool)


@given(pools(), st.integers(0, 1), st.sampled_from((11, 17, 22)))
@settings(max_examples=120)
def test_an_average_pool_is_exact_or_refused(
    sketch: tuple[tuple[int, int, int], dict[str, Any]], counted: int, opset: int
) -> None:
    shape, attributes = sketch
    nodes = [
        node("AveragePool", "x", "image", count_include_pad=counted, **attributes), *flattened("image")
    ]  # fmt: skip
    data = model(nodes, ["N", *shape], opset=opset)
    if counted and any(attributes.get("pads", ())) and _overhangs(shape, attributes):
        with pytest.raises(ConversionError, match="rounds its size up"):
            import_onnx(data)
    else:
        check_same(data)


def _overhangs(shape: tuple[int, int, int], attributes: dict[str, Any]) -> bool:
    """Whether rounding up adds a window that the padded image does not hold."""
    pads, found = attributes["pads"], False
    for axis in (0, 1):
        padded = shape[1 + axis] + pads[axis] + pads[2 + axis]
        left, stride = padded - attributes["kernel_shape"][axis], attributes["strides"][axis]
        begins = -(-left // stride) * stride
        found |= left % stride > 0 and begins < shape[1 + axis] + pads[axis]
    return found and bool(attributes["ceil_mode"])


def test_an_average_over_the_whole_image_is_global() -> None:
    pool = node("AveragePool", "x", "mean", kernel_shape=[4, 5])
    network = check_same(model([pool, node("Flatten", "mean", "y")], ["N", 3, 4, 5]))
    assert isinstance(network.graph.output, GlobalAveragePool)


def test_padding_that_counts_becomes_a_convolution_of_constants() -> None:
    attributes = {"kernel_shape": [2, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    nodes = [node("AveragePool", "x", "image", **attributes), *flattened("image")]
    network = check_same(model(nodes, ["N", 3, 4, 5]))
    assert isinstance(network.graph.nodes[1], DepthwiseConv2D)
    assert np.array_equal(
        network.tensors["AveragePool_image/weight"], np.full((3, 2, 3, 1), np.float32(1 / 6))
    )
    assert "counts its padding" in network.remarks[0]


def test_padding_that_counts_and_a_size_rounded_up_are_refused_by_name() -> None:
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    nodes = [node("AveragePool", "x", "image", ceil_mode=1, **attributes), *flattened("image")]
    with pytest.raises(ConversionError, match=r"AveragePool_.*expected ceil_mode 0 or count_include_pad 0"):
        import_onnx(model(nodes, ["N", 3, 4, 4]))


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(operator: str) -> None:
    check_same(model([node(operator, "x", "image"), node("Flatten", "image", "y")], ["N", 3, 4, 5]))


@pytest.mark.parametrize("opset", [11, 17, 18, 22])
@pytest.mark.parametrize(("axes", "keepdims"), [((2, 3), 0), ((-1, -2), 0), ((2, 3), 1)])
def test_a_mean_over_height_and_width_is_a_global_pool(
    opset: int, axes: tuple[int, ...], keepdims: int
) -> None:
    given = {"axes": list(axes)} if opset < 18 else {}
    nodes = [
        node("ReduceMean", "x" if opset < 18 else "x axes", "mean", keepdims=keepdims, **given),
        node("Flatten", "mean", "y"),
    ]
    constants: dict[str, Array] = {"axes": np.array(axes)} if opset >= 18 else {}
    network = check_same(model(nodes, ["N", 3, 4, 5], constants, opset))
    assert isinstance(network.graph.output, GlobalAveragePool)


def test_a_mean_in_tensorflows_layout_is_a_global_pool() -> None:
    nodes = [
        node("Transpose", "x", "first", perm=[0, 3, 1, 2]),
        node("Relu", "first", "active"),
        node("Transpose", "active", "last", perm=[0, 2, 3, 1]),
        node("ReduceMean", "last", "y", axes=[1, 2], keepdims=0),
    ]
    check_same(model(nodes, ["N", 4, 5, 3]), channels_last=True)


@pytest.mark.parametrize("axes", [[1], [0, 2, 3], [2], None])
def test_a_mean_over_anything_else_is_refused(axes: list[int] | None) -> None:
    given = {} if axes is None else {"axes": axes}
    mean = node("ReduceMean", "x", "y", keepdims=0, **given)
    with pytest.raises(ConversionError, match=r"ReduceMean_.*expected"):
        import_onnx(model([mean], ["N", 3, 4, 5]))


@pytest.mark.parametrize("last", [False, True])
def test_a_pad_goes_into_the_convolution_behind_it(last: bool) -> None:
    amounts = [0, 0, 1, 2, 0, 0, 3, 0] if not last else [0, 1, 2, 0, 0, 3, 0, 0]
    nodes = [node("Pad", "x pads", "padded")]
    if last:
        nodes.append(node("Transpose", "padded", "first", perm=[0, 3, 1, 2]))
    source = "first" if last else "padded"
    nodes += [node("Conv", f"{source} w", "image", pads=[1, 0, 0, 1]), *flattened("image")]
    shape: list[int | str | None] = ["N", 4, 4, 3] if last else ["N", 3, 4, 4]
    constants = {"pads": np.array(amounts), "w": weights(5, 3, 2, 2)}
    network = check_same(model(nodes, shape, constants), channels_last=last)
    assert network.folded["padding"] == 1


def test_zeros_around_a_relu_go_into_the_max_pool_behind_it() -> None:
    nodes = [
        node("Relu", "x", "active"),
        node("Pad", "active pads", "padded"),
        node("MaxPool", "padded", "image", kernel_shape=[3, 3], strides=[2, 2]),
        *flattened("image"),
    ]
    check_same(model(nodes, ["N", 3, 5, 5], {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}))


def test_zeros_that_could_be_the_maximum_are_refused() -> None:
    nodes = [
        node("Pad", "x pads", "padded"),
        node("MaxPool", "padded", "image", kernel_shape=[3, 3]),
        *flattened("image"),
    ]
    with pytest.raises(ConversionError, match=r"which could be the maximum.*behind a Relu"):
        import_onnx(model(nodes, ["N", 3, 5, 5], {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}))


def test_the_lowest_numbers_go_into_a_max_pool() -> None:
    nodes = [
        node("Pad", "x pads low", "padded"),
        node("MaxPool", "padded", "image", kernel_shape=[3, 3]),
        *flattened("image"),
    ]
    constants = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "low": np.array(np.finfo(np.float32).min)}
    check_same(model(nodes, ["N", 3, 5, 5], constants))


def test_a_pad_before_an_average_counts() -> None:
    nodes = [
        node("Pad", "x pads", "padded"),
        node("AveragePool", "padded", "image", kernel_shape=[2, 2]),
        *flattened("image"),
    ]
    network = check_same(model(nodes, ["N", 3, 5, 5], {"pads": np.array([0, 0, 1, 0, 0, 0, 0, 1])}))
    assert isinstance(network.graph.nodes[1], DepthwiseConv2D)


@pytest.mark.parametrize(
    ("attributes", "constants", "wording"),
    [
        ({"mode": "reflect"}, {"p": [0, 0, 1, 1, 0, 0, 1, 1]}, "mode is 'reflect', expected constant"),
        ({}, {"p": [0, 1, 0, 0, 0, 1, 0, 0]}, "expected around the image only"),
        ({}, {"p": [0, 0, -1, 0, 0, 0, 0, 0]}, "expected 8 numbers from 0"),
        ({}, {"p": [0, 0, 1, 1]}, "expected 8 numbers"),
        ({}, {"p": [0, 0, 1 << 40, 0, 0, 0, 0, 0]}, "from 0 to 4096"),
    ],
)
def test_a_pad_that_is_not_supported_says_what_was_found(
    attributes: dict[str, Any], constants: dict[str, list[int]], wording: str
) -> None:
    nodes = [node("Pad", "x p", "padded", **attributes), node("Conv", "padded w", "y")]
    values: dict[str, Array] = {"p": np.array(constants["p"]), "w": weights(2, 3, 2, 2)}
    with pytest.raises(ConversionError, match=wording):
        import_onnx(model(nodes, ["N", 3, 5, 5], values))


def test_a_pad_before_anything_but_a_window_is_refused() -> None:
    nodes = [node("Pad", "x p", "padded"), node("Relu", "padded", "y")]
    with pytest.raises(ConversionError, match=r"Relu_.*reads what a Pad gives"):
        import_onnx(model(nodes, ["N", 3, 5, 5], {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}))


def test_the_places_of_the_maxima_are_refused() -> None:
    nodes = [
        node("MaxPool", "x", "image places", kernel_shape=[2, 2]),
        node("Cast", "places", "real", to=1),
        node("Add", "image real", "sum"),
        *flattened("sum"),
    ]
    with pytest.raises(ConversionError, match="the places of the maxima, is read"):
        import_onnx(model(nodes, ["N", 3, 5, 5]))


def test_a_window_that_reaches_beyond_the_image_without_padding_is_refused() -> None:
    nodes = [node("AveragePool", "x", "image", kernel_shape=[5, 5]), *flattened("image")]
    with pytest.raises(ConversionError, match=r"a window of .* does not fit"):
        import_onnx(model(nodes, ["N", 3, 4, 4]))
