"""A wire file gives back the bundle's very bytes, or one error that says what is wrong."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.converters import wire
from emberfleet.converters.bundle import build_bundle, bundle_parts
from emberfleet.converters.wire import encode_wire, is_wire, open_wire
from emberfleet.converters.wire import wire as wire_module
from emberfleet.converters.wire.packing import compress, decompress
from emberfleet.core.bundle import Bundle, encode_bundle
from emberfleet.core.errors import ConversionError, EmberError, FormatError, SignatureError
from emberfleet.core.signing import SigningKey
from emberfleet.train.calibration.compact import compact_model
from emberfleet.train.calibration.model import Calibration, calibrate_model
from tests.train.calibration.networks import fire_model, photos

KEY = SigningKey.generate()
TRUSTED = [KEY.verify_key]


@pytest.fixture(scope="module")
def bundle() -> bytes:
    model = calibrate_model(fire_model(), photos(), Calibration(bias=False))
    return build_bundle(model, 3, KEY, name="fires")


@pytest.fixture(scope="module")
def sent(bundle: bytes) -> bytes:
    return encode_wire(bundle, TRUSTED)


def test_the_bundle_comes_back_byte_for_byte_from_far_fewer(bundle: bytes, sent: bytes) -> None:
    assert is_wire(sent)
    assert not is_wire(bundle)
    assert open_wire(sent, TRUSTED) == bundle
    assert len(sent) < len(bundle) / 8


def test_float_weights_travel_too(bundle: bytes) -> None:
    model = calibrate_model(
        fire_model(), photos(), Calibration("minmax", equalise=False, rounding=False, bias=False)
    )
    data = build_bundle(model, 1, KEY, float_tflite=True)
    assert open_wire(encode_wire(data, TRUSTED), TRUSTED) == data


def test_fewer_bits_make_a_smaller_file() -> None:
    sizes = [
        len(encode_wire(build_bundle(compact_model(fire_model(), photos(), target), 1, KEY), TRUSTED))
        for target in (150, 290)
    ]
    assert sizes[0] < sizes[1] - 80


def test_a_part_that_is_not_made_again_is_carried(bundle: bytes) -> None:
    opened = Bundle.open(bundle, TRUSTED)
    parts = {name: opened.part(name) for name in opened.parts}
    parts["model.tflite"] += b"made by another version"
    parts["notes.txt"] = b"something nobody can rebuild"
    manifest = type(opened.manifest)(
        **{name: getattr(opened.manifest, name) for name in opened.manifest.__slots__ if name != "parts"}
    )
    other = encode_bundle(manifest, parts, KEY)
    assert open_wire(encode_wire(other, TRUSTED), TRUSTED) == other


def test_a_key_that_is_not_trusted_is_refused_before_anything_is_made(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("weights are not decoded for strangers")

    monkeypatch.setattr(wire_module, "unpack", never)
    with pytest.raises(SignatureError):
        open_wire(sent, [SigningKey.generate().verify_key])


def test_a_version_that_makes_other_parts_says_to_fetch_the_bundle(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bundle_parts

    def another(*arguments: object, **options: object) -> dict[str, bytes]:
        parts = real(*arguments, **options)  # type: ignore[arg-type]
        return {**parts, "opencl/plan.json": parts["opencl/plan.json"] + b" "}

    monkeypatch.setattr(wire_module, "bundle_parts", another)
    with pytest.raises(ConversionError, match=r"opencl/plan.json.*fetch the full bundle"):
        open_wire(sent, TRUSTED)


def test_another_format_says_to_fetch_the_bundle(sent: bytes) -> None:
    with pytest.raises(FormatError, match="format 9"):
        open_wire(sent[:8] + struct.pack("<H", 9) + sent[10:], TRUSTED)


def test_sizes_are_refused_before_memory_is_taken(sent: bytes) -> None:
    with pytest.raises(FormatError, match="at most"):
        open_wire(sent, TRUSTED, max_bytes=len(sent) - 1)
    with pytest.raises(FormatError, match="head of"):
        open_wire(sent[:16] + b"\xff\xff\xff\xff" + sent[20:], TRUSTED)


@given(st.data())
@settings(max_examples=150)
def test_damaged_files_give_one_of_our_errors_or_the_same_bundle(data: st.DataObject) -> None:
    wire_file, made = _module_files()
    broken = bytearray(wire_file)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del broken[data.draw(st.integers(0, len(broken))) :]
    try:
        opened = wire.open_wire(bytes(broken), TRUSTED)
    except EmberError:
        return
    assert opened == made


START = wire_module._START


def _sections(wire_file: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Largest level; the head and the numbers, unpacked; the codes."""
    most, head, numbers, size, codes = wire_module._sections(wire_file)
    return most, head, decompress(numbers, size, "numbers"), codes


def _joined(most: int, head: bytes, numbers: bytes, codes: bytes) -> bytes:
    packed_head, packed_numbers = compress(head), compress(numbers)
    sizes = (len(packed_head), len(head), len(packed_numbers), len(numbers), len(codes))
    return START.pack(b"EMBERWIR", wire_module.FORMAT, most, *sizes) + packed_head + packed_numbers + codes


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_under_the_compression_gives_one_of_our_errors_or_the_same_parts(data: st.DataObject) -> None:
    """Flipped bytes seldom get past LZMA: here description, tables, forecasts and steps are hit."""
    wire_file, made = _module_files()
    most, *pieces = _sections(wire_file)
    which = data.draw(st.integers(0, 2))
    broken = bytearray(pieces[which])
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, min(len(broken) - 1, 6000)))] = data.draw(st.integers(0, 255))
    pieces[which] = bytes(broken)
    most = data.draw(st.sampled_from((most, most, 0, 1, 127, 128, 65535)))
    try:
        opened = wire.open_wire(_joined(most, *pieces), TRUSTED)
    except EmberError:
        return
    found, expected = (Bundle.open(each, TRUSTED) for each in (opened, made))
    assert found.manifest == expected.manifest  # which parts there are, and their digests


def test_what_unpacks_to_more_than_is_stated_or_allowed_takes_no_memory(sent: bytes) -> None:
    most, head, numbers, codes = _sections(sent)
    bomb, packed_head, packed = compress(bytes(32 << 20)), compress(head), compress(numbers)
    for first, second, size in (
        (bomb, packed, len(numbers)),
        (packed_head, bomb, len(numbers)),
        (packed_head, bomb, 32 << 20),
    ):
        start = START.pack(
            b"EMBERWIR", wire_module.FORMAT, most, len(first), len(head), len(second), size, len(codes)
        )
        tracemalloc.start()
        try:
            with pytest.raises(FormatError, match="wire"):
                open_wire(start + first + second + codes, TRUSTED)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()
    with pytest.raises(FormatError, match="description of"):
        open_wire(_joined(most, b"\xff\xff\xff\x7f" + head, numbers, codes), TRUSTED)


_FILES: list[bytes] = []


def _module_files() -> tuple[bytes, bytes]:
    """A wire file and its bundle, made once: hypothesis takes no fixtures of a module's scope."""
    if not _FILES:
        model = calibrate_model(fire_model(), photos(), Calibration(bias=False))
        made = build_bundle(model, 3, KEY, name="fires")
        _FILES.extend((encode_wire(made, TRUSTED), made))
    return _FILES[0], _FILES[1]


def test_every_wire_file_of_a_model_has_the_same_bytes(bundle: bytes, sent: bytes) -> None:
    assert encode_wire(bundle, TRUSTED) == sent
