"""The smali classes hold what the Java classes hold, and call what they call."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emberfleet.converters.android import tools
from emberfleet.converters.android.classes import Pins
from emberfleet.converters.android.dex import build_dex
from emberfleet.converters.android.sources import files_below, source_folder
from tests.converters.android.building import EXAMPLE, compile_java, run, skip_unless, skip_unless_it_builds
from tests.runner.bundles import KEY

SYNCHRONIZED, DECLARED_SYNCHRONIZED, CONSTRUCTOR, SUPER = 0x20, 0x20000, 0x10000, 0x20


@dataclass
class Class:
    """What can be seen of a class without running it.

    Attributes:
        about: Flags, parent, interfaces.
        members: Name and descriptor -> flags.
        calls: Of each method, the methods it calls.
    """

    about: tuple[object, ...] = ()
    members: dict[str, int] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Class]:
    """From the Java sources, the app's of the example project among them; every warning is an error."""
    skip_unless_it_builds()
    folder, sources = tmp_path_factory.mktemp("java"), source_folder() / "android"
    pinned = folder / "Pinned.java"
    pinned.write_text((sources / "templates" / "Pinned.java").read_text())
    app = EXAMPLE / "app" / "src" / "main" / "java"
    files = [
        path for place in (sources / "stubs", sources / "java", app) for path in files_below(place, ".java")
    ]
    classes = compile_java(folder / "classes", [*files, pinned], release=8)
    own = files_below(classes / "dev", ".class")
    said = run(tools.find_javac().resolve().with_name("javap"), "-p", "-v", "-s", *own)
    return dict(_read_javap(text) for text in re.split(r"^Classfile ", said, flags=re.MULTILINE)[1:])


@pytest.fixture(scope="module")
def smali(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Class]:
    """From the smali sources."""
    skip_unless("smali", "dexdump")
    dex = tmp_path_factory.mktemp("smali") / "classes.dex"
    dex.write_bytes(build_dex(Pins.of(KEY.verify_key, b"")))
    said = run("dexdump", "-d", dex)
    return dict(_read_dexdump(text) for text in re.split(r"^Class #\d+ +-$", said, flags=re.MULTILINE)[1:])


def _read_javap(text: str) -> tuple[str, Class]:
    name, parent = (
        re.search(r"this_class: #\d+ +// (\S+)", text),
        re.search(r"super_class: #\d+ +// (\S+)", text),
    )
    flags = re.search(r"^  flags: \(0x(\w+)\)", text, re.MULTILINE)
    declared = re.search(r"^\S.*class \S+.*$", text[text.index("\n") :], re.MULTILINE)
    assert name
    assert parent
    assert flags
    assert declared
    implemented = re.findall(r"implements (.+)", declared[0])
    interfaces = [f"L{each.strip().replace('.', '/')};" for each in ",".join(implemented).split(",") if each]
    found = Class((int(flags[1], 16) & ~SUPER, f"L{parent[1]};", tuple(interfaces)))
    body = text[text.index("\n{\n") :]
    pieces = re.findall(
        r"^  (\S[^\n]*);\n    descriptor: (\S+)\n    flags: \(0x(\w+)\)(.*?)(?=^  \S|\Z)",
        body,
        re.MULTILINE | re.DOTALL,
    )
    for line, descriptor, bits, code in pieces:
        word = line.split("(")[0].split()[-1].split(".")[-1]
        last = name[1].split("/")[-1]
        member = "<clinit>" if line == "static {}" else "<init>" if word == last and "(" in line else word
        value = int(bits, 16)
        if descriptor.startswith("(") and value & SYNCHRONIZED:
            value = value & ~SYNCHRONIZED | DECLARED_SYNCHRONIZED
        found.members[member + descriptor] = value
        if descriptor.startswith("("):
            called = re.findall(r"// (?:Interface)?Method (\S+)", code)
            found.calls[member + descriptor] = {_whole(each, name[1]) for each in called}
    return f"L{name[1]};", found


def _whole(called: str, own: str) -> str:
    """``a/B.c:()V`` with the class, which javap leaves out where it is the same."""
    head, descriptor = called.replace('"', "").split(":", 1)
    kind, _, method = head.rpartition(".")
    kind = kind or own
    return f"{kind if kind.startswith('[') else f'L{kind};'}.{method}:{descriptor}"


def _read_dexdump(text: str) -> tuple[str, Class]:
    def line(name: str) -> str:
        found = re.search(rf"^  {name} +: (.*)$", text, re.MULTILINE)
        assert found
        return found[1]

    listed = text.split("Interfaces        -")[1].split("Static fields     -")[0]
    flags = int(line("Access flags").split()[0], 16)
    found = Class((flags, line("Superclass").strip("'"), tuple(re.findall(r"'(L.+;)'", listed))))
    members = re.findall(
        r"name +: '([^']+)'\n +type +: '([^']+)'\n +access +: 0x(\w+)(.*?)(?=^    #\d+ +: \(in|\Z)",
        text,
        re.MULTILINE | re.DOTALL,
    )
    for name, descriptor, bits, code in members:
        found.members[name + descriptor] = int(bits, 16) & ~CONSTRUCTOR
        if descriptor.startswith("("):
            found.calls[name + descriptor] = set(re.findall(r"invoke-\S+ \{.*?\}, (\S+) //", code))
    return line("Class descriptor").strip("'"), found


def test_there_are_the_same_classes(java: dict[str, Class], smali: dict[str, Class]) -> None:
    assert set(java) == set(smali)
    assert len(java) == 8


def test_they_have_the_same_parents_and_members(java: dict[str, Class], smali: dict[str, Class]) -> None:
    for name, twin in smali.items():
        assert twin.about == java[name].about, name
        assert twin.members == java[name].members, name
    assert len(java["Ldev/emberfleet/EmberModel;"].members) > 20


def test_every_method_calls_the_same_methods(java: dict[str, Class], smali: dict[str, Class]) -> None:
    for name, twin in smali.items():
        for method, called in twin.calls.items():
            assert _android(called) == _android(java[name].calls[method]), f"{name} {method}"
    assert any("nativeClassify" in each for each in java["Ldev/emberfleet/EmberModel;"].calls["classify([III)"
        "Ldev/emberfleet/EmberResult;"])  # fmt: skip


def _android(called: set[str]) -> set[str]:
    """Without what compilers of Java call by themselves: closing twice on two ways out is one call."""
    return {each for each in called if "Throwable.addSuppressed" not in each}


def test_the_manifest_template_names_the_activity() -> None:
    text = (source_folder() / "android" / "templates" / "app.xml").read_text()
    assert 'android:name="dev.emberfleet.sample.MainActivity"' in text
    assert Path(EXAMPLE / "app/src/main/java/dev/emberfleet/sample/MainActivity.java").is_file()
