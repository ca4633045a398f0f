"""Bytes that are no model, models that claim too much, and networks that are not ours to express."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from emberfleet.converters.onnx.file import MAX_FILE_BYTES, MAX_OPERATORS, read_onnx
from emberfleet.converters.onnx.importer import SUPPORTED, import_onnx
from emberfleet.core.errors import ConversionError, EmberError, FormatError
from tests.converters.onnx.networks import flattened, model, node, weights

SHAPE = ("N", 3, 4, 4)
GOLDEN = Path(__file__).parents[2] / "golden" / "onnx" / "dense_torchscript_preserve_12.onnx"


def plain() -> onnx.ModelProto:
    """A network of one convolution."""
    nodes = [node("Conv", "x w", "image"), *flattened("image")]
    made: onnx.ModelProto = onnx.ModelProto.FromString(model(nodes, SHAPE, {"w": weights(2, 3, 1, 1)}))
    return made


def changed(change: Callable[[Any], object]) -> bytes:
    """The plain network after a change."""
    made = plain()
    change(made)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"not a model", b"\x08\xff", b"\xff" * 100, GOLDEN.read_bytes()[:999]]
)
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="onnx: "):
        import_onnx(data)


@given(st.integers(0, len(GOLDEN.read_bytes()) - 1), st.integers(0, 255))
@settings(max_examples=150)
def test_a_changed_byte_is_read_or_refused_and_nothing_else(place: int, value: int) -> None:
    data = bytearray(GOLDEN.read_bytes())
    data[place] = value
    try:
        import_onnx(bytes(data))
    except EmberError as refused:
        assert str(refused)  # noqa: PT017


def test_names_that_are_not_text_are_refused() -> None:
    data = model([node("Relu", "x", "image"), *flattened("image")], SHAPE).replace(b"image", b"\xffmage")
    with pytest.raises(FormatError, match="is not UTF-8 text"):
        import_onnx(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EmberError):
        import_onnx(data)


def test_a_file_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(FormatError, match=f"expected at most {MAX_FILE_BYTES}"):
        read_onnx(bytes(MAX_FILE_BYTES + 1))


def test_too_many_operators_are_refused() -> None:
    def many(made: Any) -> None:
        del made.graph.node[:]
        made.graph.node.extend([helper.make_node("Relu", ["x"], ["y"])] * (MAX_OPERATORS + 1))

    with pytest.raises(FormatError, match=f"{MAX_OPERATORS + 1} operators, expected at most {MAX_OPERATORS}"):
        import_onnx(changed(many))


def test_tensors_in_another_file_are_refused_and_that_file_is_not_opened() -> None:
    def outside(made: Any) -> None:
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")

    with pytest.raises(ConversionError, match="tensor 'w' lie in another file; save the model as one file"):
        import_onnx(changed(outside))


def set_dims(*dims: int) -> Callable[[Any], object]:
    def change(made: Any) -> None:
        del made.graph.initializer[0].dims[:]
        made.graph.initializer[0].dims.extend(dims)

    return change


@pytest.mark.parametrize(
    "dims", [(2, 3, 1, 2), (1 << 40, 1 << 40), (-1, 6), (1,) * 9, (0, 3, 1, 1), (1 << 62, 0)]
)
def test_a_tensor_whose_values_do_not_fill_its_shape_is_refused(dims: tuple[int, ...]) -> None:
    with pytest.raises(EmberError, match=r"tensor 'w'|weights are|the file's constants"):
        import_onnx(changed(set_dims(*dims)))


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.INT4, 77])
def test_a_tensor_of_another_type_is_refused(kind: int) -> None:
    with pytest.raises(ConversionError, match="tensor 'w' is of type"):
        import_onnx(changed(lambda made: setattr(made.graph.initializer[0], "data_type", kind)))


@pytest.mark.parametrize(("opset", "found"), [(10, True), (11, False), (22, False), (23, True)])
def test_opsets_beyond_11_to_22_are_refused(opset: int, found: bool) -> None:
    data = changed(lambda made: setattr(made.opset_import[0], "version", opset))
    if found:
        with pytest.raises(ConversionError, match=f"opset {opset}, expected 11 to 22; export with another"):
            import_onnx(data)
    else:
        assert import_onnx(data).opset == opset


def test_an_unknown_operator_is_named_with_all_others_and_what_is_supported() -> None:
    nodes = [node("LSTM", "x w", "a"), node("Resize", "a", "b"), *flattened("b")]
    with pytest.raises(ConversionError) as refused:
        import_onnx(model(nodes, SHAPE, {"w": weights(2)}))
    for words in ("LSTM 'LSTM_a'", "operator not supported (also: Resize)", ", ".join(SUPPORTED)):
        assert words in str(refused.value)


def test_an_operator_of_another_house_is_named_with_it() -> None:
    made = plain()
    made.graph.node[0].domain = "com.microsoft"
    with pytest.raises(ConversionError, match=r"com.microsoft.Conv 'Conv_image': operator not supported"):
        import_onnx(made.SerializeToString())


@pytest.mark.parametrize(
    "operator", ["QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"]
)
def test_a_quantized_model_is_refused_with_what_to_do(operator: str) -> None:
    with pytest.raises(ConversionError, match=r"is quantized already; import the float32 model.*--calibrate"):
        import_onnx(model([node(operator, "x", "q"), *flattened("q")], SHAPE))


def test_operators_that_lead_nowhere_are_left_out() -> None:
    nodes = [node("LSTM", "x", "z"), node("Conv", "x w", "image"), *flattened("image")]
    assert import_onnx(model(nodes, SHAPE, {"w": weights(2, 3, 1, 1)})).operators == 3


def test_branches_of_control_are_refused() -> None:
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "body", [], [])
    choice = helper.make_node("If", ["x"], ["image"], "choice", then_branch=body, else_branch=body)
    with pytest.raises(ConversionError, match="If 'choice': operator not supported"):
        import_onnx(model([choice, *flattened("image")], SHAPE))


def end(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4])


def with_input(kind: int, shape: list[Any]) -> Callable[[Any], object]:
    return lambda made: made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, shape))


def twice(made: Any) -> None:
    made.graph.node[1].output[0] = made.graph.node[2].input[0] = "image"


@pytest.mark.parametrize(
    ("change", "wording"),
    [
        (lambda made: made.graph.input.append(end("z")), r"inputs \(x, z\) and outputs \(y\), expected one"),
        (lambda made: made.graph.output.append(end("image")), r"outputs \(y, image\), expected"),
        (lambda made: made.graph.ClearField("input"), r"inputs \(\)"),
        (with_input(TensorProto.UINT8, ["N", 3, 4, 4]), "input 'x' is not float32"),
        (with_input(TensorProto.FLOAT, ["N", 12]), "input 'x' has 2 axes, expected an image"),
        (with_input(TensorProto.FLOAT, ["N", 3, "h", "w"]), "leaves its size open.*give it with --size"),
        (with_input(TensorProto.FLOAT, ["N", 3, 1 << 40, 4]), "expected at most"),
        (lambda made: made.graph.ClearField("node"), "holds no operator"),
        (lambda made: made.graph.sparse_initializer.add(), "sparse tensors are not supported"),
        (lambda made: made.functions.add(name="f", domain="d"), "functions of its own"),
        (lambda made: made.ClearField("opset_import"), "0 versions of the operators"),
        (lambda made: made.graph.node[0].input.__setitem__(0, "nowhere"), "'nowhere', which no operator"),
        (twice, "'image' is computed twice"),
        (lambda made: made.graph.node[0].ClearField("output"), "'image', which no operator before it"),
        (lambda made: made.graph.output[0].CopyFrom(end("w")), "does not depend on the input"),
    ],
)  # fmt: skip
def test_a_network_of_another_form_says_what_was_found(change: Callable[[Any], object], wording: str) -> None:
    with pytest.raises(EmberError, match=wording):
        import_onnx(changed(change))


def test_weights_may_be_listed_among_the_inputs_as_older_exporters_do() -> None:
    data = changed(lambda made: made.graph.input.append(end("w")))
    assert import_onnx(data).graph.input.name == "x"


def test_a_size_that_is_open_is_given() -> None:
    nodes = [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "m"), node("Flatten", "m", "y")]
    data = model(nodes, ("N", 3, None, None), {"w": weights(2, 3, 3, 3)})
    assert import_onnx(data, (12, 20)).graph.input.shape == (12, 20, 3)
    with pytest.raises(ConversionError, match="asked for 12 x 20"):
        import_onnx(model(nodes, SHAPE, {"w": weights(2, 3, 3, 3)}), (12, 20))


def test_names_are_made_fit_for_tensors() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="/b\u00e9 n/\n" + "x" * 500), *flattened("a")]
    names = [made.name for made in import_onnx(model(nodes, SHAPE)).graph.nodes]
    assert all(name.isprintable() and name.isascii() and len(name) < 130 for name in names)
    assert not names[1].startswith("/")


def test_names_that_occur_twice_are_counted() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="same"),
        helper.make_node("Relu", ["a"], ["b"], name="same"),
    ]
    names = [made.name for made in import_onnx(model([*nodes, *flattened("b")], SHAPE)).graph.nodes]
    assert names[1:3] == ["same", "same_2"]


def test_weights_are_float32_whatever_the_file_holds() -> None:
    for kind in (np.float16, np.float64):
        nodes = [node("Cast", "k", "w", to=1), node("Conv", "x w", "image"), *flattened("image")]
        network = import_onnx(model(nodes, SHAPE, {"k": weights(2, 3, 1, 1).astype(kind)}))
        assert {tensor.dtype for tensor in network.tensors.values()} == {np.dtype(np.float32)}
