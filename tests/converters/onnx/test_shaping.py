from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.converters.onnx.importer import import_onnx
from emberfleet.converters.onnx.view import BATCH, OPEN_BATCH, View, image_view
from emberfleet.core.errors import ConversionError, EmberError
from tests.converters.onnx.networks import check_same, flattened, model, node, weights

SHAPE = ("N", 3, 4, 5)


def test_an_open_batch_is_a_prime_that_no_axis_can_have() -> None:
    assert OPEN_BATCH > 1 << 20
    assert all(OPEN_BATCH % factor for factor in range(2, 1025))


@given(st.tuples(*[st.integers(1, 4)] * 3), st.integers(1, 3), st.permutations(range(4)))
def test_a_view_permuted_and_put_back_is_itself(
    shape: tuple[int, int, int], batch: int, order: tuple[int, ...]
) -> None:
    view = image_view("x", shape, batch)
    back = tuple(int(place) for place in np.argsort(order))
    assert view.permuted(tuple(order)).permuted(back) == view


@given(st.tuples(*[st.integers(1, 4)] * 3), st.sampled_from((1, 2, OPEN_BATCH)))
def test_flattening_and_restoring_gives_the_same_view(shape: tuple[int, int, int], batch: int) -> None:
    view = image_view("x", shape, batch)
    flat = view.regrouped((batch, shape[0] * shape[1] * shape[2]))
    assert flat is not None
    assert flat.regrouped(view.sizes) == view


def test_a_view_that_would_cut_an_axis_is_none() -> None:
    view = View("x", (4, 5, 6), ((BATCH,), (2,), (0,), (1,)), OPEN_BATCH)
    assert view.regrouped((OPEN_BATCH, 3, 40)) is None
    assert view.regrouped((OPEN_BATCH, 6, 20)) is not None


LAYER = {"w": weights(60, 4)}


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Flatten", "x", "flat")],
        [node("Flatten", "x", "flat", axis=-3)],
        [node("Reshape", "x to", "flat")],
        [node("Reshape", "x keep", "flat")],
        [node("Squeeze", "x none", "s"), node("Flatten", "s", "flat")],
        [
            node("Shape", "x", "shape"), node("Gather", "shape zero", "n", axis=0),
            node("Unsqueeze", "n axes", "n1"), node("Concat", "n1 minus", "shape2", axis=0),
            node("Reshape", "x shape2", "flat"),
        ],
        [
            node("Shape", "x", "shape", start=0, end=1), node("Concat", "shape minus", "shape2", axis=0),
            node("Reshape", "x shape2", "flat"),
        ],
        [
            node("Shape", "x", "shape"), node("Slice", "shape axes one", "n"), node("Cast", "n", "n2", to=7),
            node("Concat", "n2 minus", "shape2", axis=0), node("Reshape", "x shape2", "flat"),
        ],
        [node("Transpose", "x", "last", perm=[0, 2, 3, 1]), node("Flatten", "last", "flat")],
        [
            node("Reshape", "x rows", "r"), node("Unsqueeze", "r axes1", "u"),
            node("Squeeze", "u axes1", "s"), node("Reshape", "s to", "flat"),
        ],
    ],
)  # fmt: skip
def test_every_way_to_flatten_an_image_gives_the_same_scores(nodes: list[Any]) -> None:
    constants = {
        "to": np.array([-1, 60]), "keep": np.array([0, 60]), "zero": np.array(0), "axes": np.array([0]),
        "axes1": np.array([1]), "one": np.array([1]), "minus": np.array([-1]), "rows": np.array([0, 3, -1]),
        "none": np.zeros(0, np.int64), **LAYER,
    }  # fmt: skip
    # Something that reads the image first says that its channels are.
    nodes = [node("BatchNormalization", "image g b m v", "x"), *nodes, node("Gemm", "flat w", "y")]
    statistics = {name: np.ones(3, np.float32) for name in "gbmv"}
    used = {name: values for name, values in {**constants, **statistics}.items()
            if any(name in entry.input for entry in nodes)}  # fmt: skip
    check_same(model(nodes, SHAPE, used, ends=("image", "y")))


@pytest.mark.parametrize("opset", [11, 12])
def test_axes_are_attributes_in_older_files(opset: int) -> None:
    nodes = [
        node("GlobalAveragePool", "x", "m"),
        node("Squeeze", "m", "s", axes=[2, 3]),
        node("Unsqueeze", "s", "u", axes=[1, -1]),
        node("Squeeze", "u", "y", axes=[1, 3]),
    ]
    check_same(model(nodes, SHAPE, opset=opset))


def test_a_squeeze_without_axes_drops_what_is_one_and_never_an_open_batch() -> None:
    nodes = [node("GlobalAveragePool", "x", "m"), node("Squeeze", "m", "y")]
    check_same(model(nodes, SHAPE))


def test_classes_at_positions() -> None:
    nodes = [
        node("GlobalAveragePool", "x", "m"),
        node("Flatten", "m", "f"),
        node("Reshape", "f to", "p"),
        node("Softmax", "p", "y", axis=-1),
    ]
    network = check_same(model(nodes, ("N", 6, 4, 5), {"to": np.array([0, 2, 3])}))
    assert network.graph.shapes[network.graph.output.name] == (2, 3)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_may_be_written_out(batch: int) -> None:
    nodes = [
        node("Relu", "x", "a"), node("MaxPool", "a", "p", kernel_shape=[1, 1]),
        node("Reshape", "p to", "flat"), node("Gemm", "flat w", "y"),
    ]  # fmt: skip
    network = import_onnx(model(nodes, (batch, 3, 4, 5), {"to": np.array([batch, 60]), **LAYER}))
    assert network.graph.classes == 4


def test_a_batch_written_out_where_it_is_open_says_what_to_do() -> None:
    nodes = [node("Reshape", "x to", "flat"), node("Gemm", "flat w", "y")]
    with pytest.raises(ConversionError, match=r"\(N, 3, 4, 5\) to \(1, 60\).*give the input that number too"):
        import_onnx(model(nodes, SHAPE, {"to": np.array([1, 60]), **LAYER}))


def test_casts_of_float32_and_identities_are_left_out() -> None:
    nodes = [
        node("Identity", "x", "i"), node("Cast", "i", "c", to=1), node("Conv", "c w", "image"),
        *flattened("image"),
    ]  # fmt: skip
    network = check_same(model(nodes, SHAPE, {"w": weights(2, 3, 1, 1)}))
    assert network.folded["identities"] == 2


@pytest.mark.parametrize(
    ("nodes", "wording"),
    [
        ([node("Cast", "x", "y", to=10)], "casts to type 10, expected 1"),
        ([node("Transpose", "x", "y", perm=[0, 1, 2, 2])], "expected an order of 4 axes"),
        ([node("Transpose", "x", "t", perm=[0, 3, 2, 1]), node("Conv", "t w", "y")], "laid out as"),
        (
            [
                node("Relu", "x", "a"), node("MaxPool", "a", "b", kernel_shape=[1, 1]),
                node("Transpose", "b", "t", perm=[0, 1, 3, 2]), node("Conv", "t w", "y"),
            ],
            r"laid out as \(N, C, W, H\), expected \(N, C, H, W\)",
        ),
        ([node("Flatten", "x", "y", axis=2)], r"the output has the shape"),
        ([node("Flatten", "x", "y", axis=9)], "axis is 9"),
        ([node("Reshape", "x cut", "y")], "cuts the image's axes"),
        ([node("Reshape", "x few", "y")], "does not fill it"),
        ([node("Squeeze", "x one", "y")], "expected axes of 1"),
        ([node("Gather", "x one", "y")], "is supported between constants only"),
        ([node("Relu", "x", "y")], r"the output has the shape \(N, 3, 4, 5\), expected classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_name(nodes: list[Any], wording: str) -> None:
    constants = {
        "w": weights(2, 3, 1, 1), "cut": np.array([0, 2, 30]), "few": np.array([0, 7]), "one": np.array([1])
    }  # fmt: skip
    with pytest.raises(ConversionError, match=wording):
        import_onnx(model(nodes, SHAPE, constants))


def constant_network(nodes: list[Any], **constants: Any) -> bytes:
    """A network whose weights are computed from constants."""
    return model([*nodes, node("Conv", "x w", "image"), *flattened("image")], SHAPE, constants)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Transpose", "k", "w", perm=[1, 0, 2, 3])], {"k": weights(3, 2, 1, 1)}),
        ([node("Mul", "k s", "w")], {"k": weights(2, 3, 1, 1), "s": weights(2, 1, 1, 1)}),
        ([node("Div", "k s", "w")], {"k": weights(2, 3, 1, 1), "s": np.float32(3)}),
        ([node("Constant", "", "k", value_floats=[1.0, 2.0, 3.0]), node("Reshape", "k to", "w")],
         {"to": np.array([1, 3, 1, 1])}),
        ([node("Constant", "", "f", value_float=0.5), node("Expand", "f to", "w")],
         {"to": np.array([2, 3, 1, 1])}),
        ([node("ConstantOfShape", "to", "w")], {"to": np.array([2, 3, 1, 1])}),
        ([node("Sqrt", "k", "r"), node("Neg", "r", "w")], {"k": np.abs(weights(2, 3, 1, 1))}),
        ([node("Gather", "k places", "w")], {"k": weights(4, 3, 1, 1), "places": np.array([3, 0])}),
        ([node("Slice", "k from to axes step", "w")],
         {"k": weights(4, 3, 1, 1), "from": np.array([3]), "to": np.array([-9]), "axes": np.array([0]),
          "step": np.array([-2])}),
        ([node("Where", "yes k s", "w")],
         {"yes": np.array(True), "k": weights(2, 3, 1, 1), "s": weights(2, 3, 1, 1, seed=9)}),
        ([node("Squeeze", "k first", "w")], {"k": weights(1, 2, 3, 1, 1), "first": np.array([0])}),
    ],
)  # fmt: skip
def test_weights_computed_from_constants(nodes: list[Any], constants: dict[str, Any]) -> None:
    assert check_same(constant_network(nodes, **constants)).folded["constants"] == len(nodes)


def test_integers_divide_towards_zero() -> None:
    nodes = [node("Div", "a b", "w0"), node("Cast", "w0", "w", to=1)]
    values = {"a": np.array([-7, 7, 9]).reshape(1, 3, 1, 1), "b": np.array(2)}
    network = check_same(constant_network(nodes, **values))
    assert network.tensors["Conv_image/weight"].ravel().tolist() == [-3, 3, 4]


@pytest.mark.parametrize(
    ("nodes", "constants", "wording"),
    [
        ([node("ConstantOfShape", "to", "w")], {"to": np.array([1 << 20, 1 << 20])}, "expected at most"),
        ([node("Expand", "k to", "w")], {"k": weights(1), "to": np.array([1 << 30, 1])}, "expected at most"),
        ([node("Gather", "k p", "w")], {"k": weights(9999), "p": np.zeros(19999, int)}, "expected at most"),
        ([node("Mul", "a b", "w")], {"a": weights(1 << 14, 1), "b": weights(1, 1 << 14)}, "expected at most"),
        ([node("Reshape", "k to", "w")], {"k": weights(4), "to": np.array([5])}, "does not fit its"),
        ([node("Reshape", "k to", "w")], {"k": weights(4), "to": np.array([0, 0])}, "does not fit its"),
        ([node("Concat", "k k", "w", axis=3)], {"k": weights(4)}, "does not fit its constants"),
        ([node("Cast", "k", "w", to=16)], {"k": weights(4)}, "casts to type 16"),
        ([node("Div", "a z", "w")], {"a": np.array([1]), "z": np.array([0])}, "division by zero"),
        ([node("Constant", "", "w", value_string="a")], {}, "attribute 'value_string' is not supported"),
        ([node("Constant", "", "w")], {}, "has 0 attributes"),
        ([node("ConstantOfShape", "to", "w")], {"to": np.array([-1])}, "does not fit|expected"),
    ],
)  # fmt: skip
def test_constants_that_do_not_fit_or_grow_too_large_are_refused(
    nodes: list[Any], constants: dict[str, Any], wording: str
) -> None:
    with pytest.raises(EmberError, match=wording):
        import_onnx(constant_network(nodes, **constants))


def test_constants_that_double_again_and_again_are_refused() -> None:
    nodes = [node("Concat", f"k{n} k{n}", f"k{n + 1}", axis=0) for n in range(60)]
    with pytest.raises(EmberError, match="expected at most"):
        import_onnx(constant_network([*nodes, node("Identity", "k60", "w")], k0=weights(8)))
