from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from emberfleet.runtime.extras import LIBRARIES

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("edge", "converters", "server")
PUBLISHED_NAMES = {"PIL": "pillow", "ai_edge_litert": "ai-edge-litert"}

IMPORT_WITHOUT_EXTRAS = """
import importlib, pkgutil, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
for package in ("core", "engine", "runtime", "agent", "cli"):
    found = importlib.import_module("emberfleet." + package)
    for module in pkgutil.iter_modules(found.__path__, found.__name__ + "."):
        if not module.ispkg and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("emberfleet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return frozenset(archive.namelist())


def test_wheel_holds_every_file_of_the_three_folders(wheel_files: frozenset[str]) -> None:
    tree = {
        str(path.relative_to(ROOT / folder))
        for folder in FOLDERS
        for path in (ROOT / folder / "emberfleet").rglob("*")
        if path.suffix in {".py", ".cl", ".tflite", ".html", ".css", ".js", ".typed"}
        or path.name == "py.typed"
    }
    assert any(name.endswith(".cl") for name in tree)
    assert tree - wheel_files == set()


def test_wheel_holds_nothing_beside_the_package(wheel_files: frozenset[str]) -> None:
    strangers = {name for name in wheel_files if not name.startswith("emberfleet")}
    assert strangers == set()


def test_namespace_has_no_init_and_each_part_has_its_own() -> None:
    for folder in FOLDERS:
        namespace = ROOT / folder / "emberfleet"
        assert not (namespace / "__init__.py").exists()
        for part in namespace.iterdir():
            if part.is_dir() and part.name != "__pycache__":
                assert (part / "__init__.py").is_file(), part
                assert (part / "py.typed").is_file(), part


def test_layers_hold() -> None:
    pytest.importorskip("importlinter")
    check = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    path = ":".join(str(ROOT / folder) for folder in FOLDERS)
    result = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_device_imports_without_any_optional_library() -> None:
    optional = [name for libraries in LIBRARIES.values() for name in libraries] + ["tflite_runtime"]
    path = ":".join(str(ROOT / folder) for folder in FOLDERS)
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_EXTRAS, ",".join(optional)],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_extras_and_what_the_doctor_looks_for_agree(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    for extra, libraries in LIBRARIES.items():
        for library in libraries:
            published = PUBLISHED_NAMES.get(library, library)
            assert any(requirement.startswith(published) for requirement in extras[extra]), (extra, library)


def test_every_dependency_has_its_reason_written_down(project: dict[str, Any]) -> None:
    reasons = (ROOT / "docs" / "decisions" / "dependencies.md").read_text().lower()
    lists = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    for requirement in (requirement for group in lists for requirement in group):
        name = requirement.split("[")[0].split(">")[0].split(";")[0].strip().lower()
        if name != "emberfleet":
            assert f"| {name} |" in reasons, name
