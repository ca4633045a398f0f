"""libember.so as Android's linker will see it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from emberfleet.converters.android import tools
from emberfleet.converters.android.native import PAGE_BYTES, TARGETS
from emberfleet.converters.android.sources import source_folder
from emberfleet.core.errors import ConversionError
from tests.converters.android.building import HERE, run, skip_unless, skip_unless_it_builds

MACHINES = {"arm64-v8a": "AArch64", "armeabi-v7a": "ARM", "x86_64": "Advanced Micro Devices X86-64"}


@pytest.fixture(scope="module")
def libraries(aar: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ABI -> libember.so of the AAR."""
    skip_unless("readelf")
    folder = tmp_path_factory.mktemp("native")
    with zipfile.ZipFile(aar) as archive:
        return {abi: Path(archive.extract(f"jni/{abi}/libember.so", folder)) for abi in TARGETS}


@pytest.mark.parametrize("abi", TARGETS)
def test_it_is_for_its_processor(libraries: dict[str, Path], abi: str) -> None:
    header = run("readelf", "-hW", libraries[abi])
    assert re.search(rf"Machine:\s+{MACHINES[abi]}", header)
    assert re.search(r"Type:\s+DYN", header)


@pytest.mark.parametrize("abi", TARGETS)
def test_it_needs_the_phones_c_library_and_nothing_else(libraries: dict[str, Path], abi: str) -> None:
    dynamic = run("readelf", "-dW", libraries[abi])
    assert set(re.findall(r"NEEDED.*\[(.+?)\]", dynamic)) == {"libc.so", "libdl.so", "libm.so"}
    assert re.search(r"SONAME.*\[libember\.so\]", dynamic)
    assert "TEXTREL" not in dynamic
    assert "BIND_NOW" in dynamic


@pytest.mark.parametrize("abi", TARGETS)
def test_it_loads_on_phones_with_pages_of_16_kib(libraries: dict[str, Path], abi: str) -> None:
    """And what is made read-only after loading shares no such page with what is written later."""
    headers = [line.split() for line in run("readelf", "-lW", libraries[abi]).splitlines()]
    loads = [words for words in headers if words[:1] == ["LOAD"]]
    assert len(loads) >= 3
    free_from = 0
    for _, offset, address, _, _, size, *_, alignment in loads:
        assert int(alignment, 16) == PAGE_BYTES
        assert (int(address, 16) - int(offset, 16)) % PAGE_BYTES == 0
        assert int(address, 16) // PAGE_BYTES >= free_from
        free_from = -(-(int(address, 16) + int(size, 16)) // PAGE_BYTES)


@pytest.mark.parametrize("abi", TARGETS)
def test_it_exports_the_java_functions_and_the_runner_alone(libraries: dict[str, Path], abi: str) -> None:
    lines = [line.split() for line in run("readelf", "--dyn-syms", "-W", libraries[abi]).splitlines()]
    exported = {words[7] for words in lines if len(words) == 8 and words[6] not in ("UND", "Ndx")}
    header = (source_folder() / "runner" / "ember.h").read_text()
    functions = set(re.findall(r"EMBER_API [^;(]*?(ember_\w+)\(", header))
    java = (source_folder() / "android" / "java" / "dev" / "emberfleet" / "EmberModel.java").read_text()
    natives = {
        f"Java_dev_emberfleet_EmberModel_{name}" for name in re.findall(r"native [\w\[\]]+ (\w+)\(", java)
    }
    assert len(functions) >= 5
    assert len(natives) >= 5
    assert exported == functions | natives


def test_32_bit_arm_divides_64_bit_numbers(tmp_path: Path) -> None:
    skip_unless("qemu-arm-static")
    skip_unless_it_builds()
    program = tmp_path / "division"
    run(
        *(tools.find_native_tools().clang, f"--target={TARGETS['armeabi-v7a']}", "-O2", "-nostdlibinc"),
        *("-nostdlib", "-static", "-fno-stack-protector", "-fuse-ld=lld", "-o", program),
        *(source_folder() / "android" / "libc" / "arm" / "division.c", HERE / "division_check.c"),
    )
    run("qemu-arm-static", program)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("JAVA_HOME", "ANDROID_HOME", "ANDROID_SDK_ROOT", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    jdk = tmp_path / "jdk"
    (jdk / "include").mkdir(parents=True)
    (jdk / "include" / "jni.h").touch()
    (jdk / "bin").mkdir()
    (jdk / "bin" / "javac").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConversionError, match="install a JDK"):
        tools.find_javac()
    monkeypatch.setenv("JAVA_HOME", str(jdk))
    with pytest.raises(ConversionError, match="clang lld"):
        tools.find_native_tools()
    with pytest.raises(ConversionError, match="libsmali-java"):
        tools.find_tool("smali", "smali (Debian: libsmali-java)")


def test_an_sdks_newest_tools_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    for version in ("9.0.0", "35.0.1", "34.0.0"):
        (tmp_path / "build-tools" / version).mkdir(parents=True)
        (tmp_path / "build-tools" / version / "aapt2").touch(0o755)
        (tmp_path / "platforms" / f"android-{version.split('.')[0]}").mkdir(parents=True)
        (tmp_path / "platforms" / f"android-{version.split('.')[0]}" / "android.jar").touch()
    assert tools.find_tool("aapt2", "an SDK").parent.name == "35.0.1"
    assert tools.find_framework().parent.name == "android-35"


def test_what_a_tool_says_is_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"sh failed \(3\): the reason"):
        tools.run_tool(["/bin/sh", "-c", "echo the reason; exit 3"], tmp_path)
    with pytest.raises(ConversionError, match="could not be run"):
        tools.run_tool([tmp_path / "nothing"], tmp_path)
