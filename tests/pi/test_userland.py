"""What is known of a root folder without running anything in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pi.run import table_of, with_earlier
from tests.pi.userland import LOADERS, find_roots, installed_with, target_of

STATUS = """Package: base
Status: install ok installed
Priority: required
Installed-Size: 100

Package: python3
Status: install ok installed
Priority: optional
Installed-Size: 10
Depends: base, libc (>= 2)

Package: libc
Status: install ok installed
Priority: optional
Installed-Size: 20

Package: ours
Status: install ok installed
Installed-Size: 1
Depends: python3 (>= 3.11), absent | present, virtual

Package: present
Status: install ok installed
Installed-Size: 3
Depends: libc
Pre-Depends: before

Package: before
Status: install ok installed
Installed-Size: 5

Package: provider
Status: install ok installed
Installed-Size: 7
Provides: virtual (= 1), other

Package: absent
Status: deinstall ok config-files
Installed-Size: 1000

Package: unrelated
Status: install ok installed
Installed-Size: 2000
"""


def root(folder: Path, processor: str, codename: str) -> Path:
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/os-release").write_text(f'NAME="Debian"\nVERSION_CODENAME={codename}\n')
    loader = folder / LOADERS[processor]
    loader.parent.mkdir(parents=True)
    loader.touch()
    return folder


def test_a_root_is_known_by_its_loader_and_its_release(tmp_path: Path) -> None:
    assert target_of(root(tmp_path / "a", "armhf", "bookworm")) == "armhf-bookworm"
    assert target_of(tmp_path) is None
    (tmp_path / "a" / LOADERS["armhf"]).unlink()
    assert target_of(tmp_path / "a") is None


def test_roots_are_found_below_a_folder_or_as_the_folder(tmp_path: Path) -> None:
    first = root(tmp_path / "x", "arm64", "trixie")
    second = root(tmp_path / "y", "arm64", "bookworm")
    (tmp_path / "cache").mkdir()
    assert find_roots(tmp_path) == [second, first]
    assert find_roots(first) == [first]
    assert find_roots(tmp_path / "missing") == []


def test_only_what_a_package_brings_is_counted(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    found = installed_with(tmp_path / "status", ["ours"], ["python3"])
    assert found == {"before": 5, "ours": 1, "present": 3, "provider": 7}


def test_without_roots_it_says_what_it_needs_and_is_content(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.pi.run", str(tmp_path), "--out", str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        env={"PYTHONPATH": "edge:server:converters"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Skipped" in done.stderr
    assert "docs/guides/raspberry-pi.md" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rows_of_other_targets_stay(tmp_path: Path) -> None:
    figures = tmp_path / "pi.json"
    assert with_earlier(figures, [{"target": "b", "bytes": 1}]) == [{"target": "b", "bytes": 1}]
    figures.write_text(json.dumps({"rows": [{"target": "b", "bytes": 1}, {"target": "c", "bytes": 2}]}))
    found = with_earlier(figures, [{"target": "b", "bytes": 3}, {"target": "a", "bytes": 4}])
    assert [(row["target"], row["bytes"]) for row in found] == [("a", 4), ("b", 3), ("c", 2)]


@pytest.mark.parametrize("row", [{"target": "arm64-trixie", "ran": [], "failure": "it broke"}])
def test_a_failed_root_has_its_row(row: dict[str, object]) -> None:
    assert table_of([row]).row_count == 1
