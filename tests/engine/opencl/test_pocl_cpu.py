import struct

import pytest

from emberfleet.engine.opencl.pocl_cpu import (
    find_name_field,
    llvm_cpu_name,
    mend_unknown_cpu,
    processor_flags,
)

AVX2 = "avx2 fma f16c bmi1 bmi2 abm movbe ssse3 sse4_1 sse4_2 popcnt cx16"
AVX512 = f"{AVX2} avx512f avx512bw avx512dq avx512vl avx512cd"


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (f"{AVX512} avx512_vnni", "cascadelake"),
        (AVX512, "skylake-avx512"),
        (AVX2, "haswell"),
        ("ssse3 sse4_1 sse4_2 popcnt cx16", "nehalem"),
        ("sse2", None),
        ("avx2 avx512f", None),
    ],
)
def test_name_needs_every_instruction_of_the_processor(flags: str, name: str | None) -> None:
    assert llvm_cpu_name(flags.split()) == name


def test_flags_are_those_of_the_first_processor() -> None:
    assert processor_flags("processor\t: 0\nflags\t\t: fma avx2\n\nflags\t\t: other\n") == {"fma", "avx2"}
    assert processor_flags("processor\t: 0\nFeatures\t: asimd asimddp\n") == {"asimd", "asimddp"}
    assert processor_flags("CPU part : 0xd0b") == frozenset()


class Memory:
    """Strings at made-up addresses; everything else is unmapped."""

    def __init__(self, **strings: str) -> None:
        self.at = {0x10000 * (i + 1): text.encode() + b"\0" for i, text in enumerate(strings.values())}
        self.address = dict(zip(strings, self.at, strict=True))

    def read(self, address: int, size: int) -> bytes:
        return self.at.get(address, b"")[:size]


def record(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words)


def test_field_after_the_triple_is_found() -> None:
    memory = Memory(triple="x86_64-unknown-linux-gnu", name="generic")
    words = record(7, 0, memory.address["triple"], memory.address["name"], 9)
    assert find_name_field(words, memory.read) == 24


@pytest.mark.parametrize(
    ("triple", "name"),
    [
        ("x86_64-unknown-linux-gnu", "generic-rv64"),
        ("x86_64-unknown-linux-gnu", "znver4"),
        ("aarch64-unknown-linux-gnu", "generic"),
        ("x86_64", "generic"),
    ],
)
def test_other_strings_are_left_alone(triple: str, name: str) -> None:
    memory = Memory(triple=triple, name=name)
    assert find_name_field(record(memory.address["triple"], memory.address["name"]), memory.read) is None


def test_pointers_apart_or_found_twice_are_left_alone() -> None:
    memory = Memory(triple="x86_64-pc-linux-gnu", name="generic")
    triple, name = memory.address["triple"], memory.address["name"]
    assert find_name_field(record(triple, 0, name), memory.read) is None
    assert find_name_field(record(triple, name, triple, name), memory.read) is None
    assert find_name_field(b"", memory.read) is None


@pytest.mark.parametrize(
    ("platform", "version"),
    [
        ("OpenCL 3.0 PoCL 6.0  Linux", "OpenCL 3.0 PoCL HSTR: pthread-x86_64-linux-gnu-generic"),
        ("OpenCL 3.0 PoCL 3.0-rc2  Linux", "OpenCL 3.0 PoCL HSTR: pthread-x86_64-linux-gnu-znver3"),
        ("OpenCL 3.0 CUDA", "OpenCL 3.0 CUDA-generic"),
    ],
)
def test_other_drivers_are_never_read(platform: str, version: str) -> None:
    class Device:
        def __init__(self) -> None:
            self.version = version

        @property
        def int_ptr(self) -> int:
            raise AssertionError("the record must not be looked at")

    assert mend_unknown_cpu(Device(), platform) is None


def test_an_address_that_is_not_mapped_changes_nothing() -> None:
    class Device:
        version = "OpenCL 3.0 PoCL HSTR: pthread-x86_64-linux-gnu-generic"
        int_ptr = 0x1000

    assert mend_unknown_cpu(Device(), "OpenCL 3.0 PoCL 3.0-rc2  Linux") is None
