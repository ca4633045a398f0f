"""The manifest: what is accepted comes back the same, everything else is a `FormatError`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError
from emberfleet.core.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    PartInfo,
    TensorContract,
    check_part_name,
)
from emberfleet.core.preprocessing import Preprocessing
from tests.golden.make_bundle import make_manifest

DIGEST = "ab" * 32
GOOD = replace(make_manifest(), parts={"graph.json": PartInfo(3, DIGEST)})


def test_decode_of_encode_is_identity() -> None:
    assert Manifest.decode(GOOD.encode()) == GOOD


def test_a_manifest_without_a_parent_comes_back_without() -> None:
    first = replace(GOOD, parent=None)
    assert "parent" not in first.to_json()
    assert Manifest.decode(first.encode()) == first


def test_the_bytes_do_not_depend_on_the_order_of_plans_or_parts() -> None:
    parts = {"a": PartInfo(1, DIGEST), "b": PartInfo(2, DIGEST)}
    reordered = dict(reversed(parts.items()))
    assert replace(GOOD, parts=parts).encode() == replace(GOOD, parts=reordered).encode()


def test_the_order_of_labels_and_of_a_plans_tensors_is_kept() -> None:
    found = Manifest.decode(replace(GOOD, labels=("c", "a", "b"), plans={"p": ("z", "a")}).encode())
    assert found.labels == ("c", "a", "b")
    assert found.plans == {"p": ("z", "a")}


def test_a_code_of_positions_times_classes_is_expressed() -> None:
    code = replace(GOOD, positions=14, output=TensorContract("float32", (14, 3)))
    assert Manifest.decode(code.encode()) == code


Change = Callable[[dict[str, Any]], object]

BROKEN: dict[str, tuple[Change, str]] = {
    "a newer format": (lambda m: m.update(format=2), "format 2, expected 1"),
    "an unknown field": (lambda m: m.update(more=1), "field 'more' is not part"),
    "a missing field": (lambda m: m.pop("labels"), "labels is missing"),
    "version 0": (lambda m: m.update(model_version=0), "model_version must be an integer from 1"),
    "version true": (lambda m: m.update(model_version=True), "model_version must be an integer"),
    "version 1.0": (lambda m: m.update(model_version=1.0), "model_version must be an integer"),
    "a huge version": (lambda m: m.update(model_version=1 << 60), "model_version must be an integer"),
    "a model name with a slash": (lambda m: m.update(model_name="a/b"), "model_name must be"),
    "a day that does not exist": (lambda m: m.update(created="2026-02-30T00:00:00Z"), "created is"),
    "a time without a zone": (lambda m: m.update(created="2026-01-31T12:00:00"), "created is"),
    "a date only": (lambda m: m.update(created="2026-01-31"), "created is"),
    "no labels": (lambda m: m.update(labels=[]), "0 labels, expected 1"),
    "a label twice": (lambda m: m.update(labels=["a", "a", "b"]), "each once"),
    "a label that is a number": (lambda m: m.update(labels=[1, 2, 3]), "labels must be a list of texts"),
    "a label of control characters": (lambda m: m.update(labels=["a", "b", "\x1b[2J"]), "printable"),
    "a long label": (lambda m: m.update(labels=["a", "b", "c" * 101]), "1 to 100 printable"),
    "an empty label": (lambda m: m.update(labels=["a", "b", ""]), "1 to 100 printable"),
    "no position": (lambda m: m.update(positions=0), "positions must be"),
    "positions the output has not": (lambda m: m.update(positions=2), r"output is \(3,\), expected \(2, 3\)"),
    "more labels than outputs": (lambda m: m["labels"].append("d"), r"output is \(3,\), expected \(4,\)"),
    "an input that preprocessing does not give": (
        lambda m: m["input"].update(shape=[2, 2, 3]),
        r"input is \(2, 2, 3\), but preprocessing gives \(2, 2, 1\)",
    ),
    "an unknown dtype": (lambda m: m["input"].update(dtype="complex64"), "dtype must be one of"),
    "a shape of text": (lambda m: m["input"].update(shape=["2", 2, 1]), "1 to 4 axes"),
    "a negative axis": (lambda m: m["output"].update(shape=[-3]), "1 to 4 axes"),
    "five axes": (lambda m: m["output"].update(shape=[1] * 5), "a list of at most 4"),
    "preprocessing of zero pixels": (lambda m: m["preprocessing"].update(height=0), "preprocessing"),
    "a plan of nothing": (lambda m: m.update(plans={"head": []}), "plan 'head' has 0 tensors"),
    "a plan with a tensor twice": (lambda m: m.update(plans={"head": ["a", "a"]}), "each once"),
    "a plan that is text": (lambda m: m.update(plans={"head": "abc"}), "must be a list of texts"),
    "a plan with a path as name": (lambda m: m.update(plans={"../x": ["a"]}), "cannot name a plan"),
    "65 plans": (lambda m: m.update(plans={f"p{i}": ["a"] for i in range(65)}), "65 plans"),
    "a metric of text": (lambda m: m.update(metrics={"accuracy": "good"}), "finite numbers"),
    "65 metrics": (lambda m: m.update(metrics={f"m{i}": 1 for i in range(65)}), "at most 64"),
    "a short parent": (lambda m: m.update(parent="ab"), "parent must be 64 hexadecimal digits"),
    "a null parent": (lambda m: m.update(parent=None), "parent is null"),
    "a digest in capitals": (lambda m: m["parts"]["graph.json"].update(sha256="AB" * 32), "sha256 must be"),
    "a negative size": (lambda m: m["parts"]["graph.json"].update(size_bytes=-1), "size_bytes must be"),
    "a part with more to say": (lambda m: m["parts"]["graph.json"].update(mode=7), "'mode' is not part"),
    "1001 parts": (
        lambda m: m.update(parts={f"p{i}": m["parts"]["graph.json"] for i in range(1001)}),
        "1001 parts, expected at most 1000",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_manifest_is_refused_with_its_reason(name: str) -> None:
    change, text = BROKEN[name]
    document = json.loads(GOOD.encode())
    change(document)
    with pytest.raises(FormatError, match=text):
        Manifest.decode(json.dumps(document).encode())


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "9" * 30])
def test_a_metric_that_is_not_a_finite_number_is_refused(text: str) -> None:
    data = GOOD.encode().replace(b"0.75", text.encode())
    with pytest.raises(FormatError):
        Manifest.decode(data)


@pytest.mark.parametrize("name", ["graph.json", "opencl/kernels/conv2d.cl", "_a-b.c/D_9"])
def test_an_ordinary_part_name_is_accepted(name: str) -> None:
    check_part_name(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("../etc/passwd", "by '..'"),
        ("a/../b", "by '..'"),
        ("/etc/passwd", "absolute path"),
        ("a\\b", "backslash"),
        ("C:\\b", "backslash"),
        ("C:b", "must be up to"),
        ("", "must be up to"),
        ("a//b", "must be up to"),
        ("a/", "must be up to"),
        ("./a", "must be up to"),
        (".hidden", "must be up to"),
        ("a b", "must be up to"),
        ("a\x00b", "must be up to"),
        ("a\n", "must be up to"),
        ("größe", "must be up to"),
        ("a" * 201, "must be up to"),
        ("manifest.dsse.json", "no part may be called"),
    ],
)
def test_a_name_that_could_mislead_is_refused_with_its_reason(name: str, text: str) -> None:
    with pytest.raises(FormatError, match=text):
        check_part_name(name)


def test_parts_that_differ_by_case_only_are_refused() -> None:
    with pytest.raises(FormatError, match="by case only"):
        replace(GOOD, parts={"a": PartInfo(1, DIGEST), "A": PartInfo(1, DIGEST)})


def test_a_manifest_made_here_is_held_to_the_same_rules() -> None:
    with pytest.raises(FormatError, match="input is"):
        replace(GOOD, preprocessing=Preprocessing(3, 3, 1))
    with pytest.raises(FormatError, match="must be a finite float"):
        replace(GOOD, metrics={"accuracy": float("nan")})


@pytest.mark.parametrize(("size_bytes", "sha256"), [(-1, DIGEST), (True, DIGEST), (1, "AB" * 32), (1, "")])
def test_a_part_made_here_is_held_to_the_same_rules(size_bytes: int, sha256: str) -> None:
    with pytest.raises(FormatError, match="manifest: "):
        PartInfo(size_bytes, sha256)


def test_a_contract_of_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(FormatError, match="dtype is 'float16', expected one of float32"):
        TensorContract("float16", (3,))


def test_a_manifest_over_its_limit_is_refused_unparsed() -> None:
    with pytest.raises(FormatError, match=f"expected at most {MAX_MANIFEST_BYTES}"):
        Manifest.decode(b" " * (MAX_MANIFEST_BYTES + 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(sorted(GOOD.to_json())), JSON)
def test_any_value_in_any_field_is_accepted_whole_or_a_format_error(name: str, value: object) -> None:
    try:
        found = Manifest.from_json({**GOOD.to_json(), name: value})
    except FormatError:
        return
    assert Manifest.decode(found.encode()) == found


@given(JSON)
def test_any_document_that_is_not_a_manifest_is_a_format_error(document: object) -> None:
    with pytest.raises(FormatError):
        Manifest.from_json(document)
