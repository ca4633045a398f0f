"""What Emberfleet does on emulated Raspberry Pis, beside what it does here: `make test-pi ROOT=...`.

Every root folder found is put through `tests.pi.story`. A table goes to the terminal, the figures to
build/pi.json. How to make roots: docs/guides/raspberry-pi.md. Times under emulation say nothing, so none are
given.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.pi.desk import REPOSITORY, Desk
from tests.pi.story import tell
from tests.pi.userland import UserlandError, find_roots, what_is_missing

NO_ROOTS = "ROOT=FOLDER with roots of arm64 or armhf: docs/guides/raspberry-pi.md says how to make them"
COLUMNS = ("target", "Python", "numpy", "HPKE", ".deb", "installed", "+ OpenCL", "litert", "opencl", "numpy",
           "retrained", "round")  # fmt: skip
CAPTION = (
    ".deb, installed (beyond Raspberry Pi OS Lite), OpenCL: MiB. litert, opencl, numpy: int8 steps from this "
    "machine's numpy. retrained: largest difference of a weight, as a share of the largest weight."
)


def main() -> int:
    """Run every root; 0 when all went well or there was nothing to do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", nargs="?", default="", help="a root folder, or a folder of them")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build")
    options = parser.parse_args()
    say = Console(stderr=True, soft_wrap=True, highlight=False)
    roots = find_roots(Path(options.root)) if options.root else []
    missing = what_is_missing() + ([] if roots else [NO_ROOTS])
    if missing:
        say.print("Skipped: no emulated Raspberry Pi. It needs " + "; ".join(missing) + ".")
        return 0
    rows = run_roots(roots, options.out, say)
    Console(width=150).print(table_of(rows))
    return 1 if any("failure" in row for row in rows) else 0


def run_roots(roots: Iterable[Path], out: Path, say: Console) -> list[dict[str, Any]]:
    """Put each root through its story, as many at a time as this machine has processors.

    Args:
        roots: The root folders.
        out: Takes ``pi.json`` and, in a folder ``pi``, what is made on the way.
        say: Where progress goes.

    Returns:
        One row for each root; one that failed has a ``failure`` and no figures.
    """
    desk = Desk.make(out.resolve() / "pi")

    def run(root: Path) -> dict[str, Any]:
        try:
            return tell(desk, root, lambda text: say.print(text))
        except (UserlandError, AssertionError, subprocess.CalledProcessError) as error:
            say.print(f"{root.name} failed: {error}", markup=False)
            return {"target": root.name, "ran": [], "failure": str(error).splitlines()[0]}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(run, roots))
    figures = out / "pi.json"
    figures.write_text(json.dumps({"rows": with_earlier(figures, rows)}, indent=1) + "\n")
    return rows


def with_earlier(figures: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new rows, and those of other targets that the file has from before: one root takes long."""
    new = {row["target"] for row in rows}
    earlier = json.loads(figures.read_text())["rows"] if figures.exists() else []
    return sorted([row for row in earlier if row["target"] not in new] + rows, key=lambda row: row["target"])


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The rows for people."""
    table = Table(*COLUMNS, caption=CAPTION)
    for row in rows:
        if "failure" in row:
            table.add_row(row["target"], "failed")
            continue
        sizes, agreement = row["installed_mib"], row["agreement"]
        table.add_row(
            row["target"],
            row["python"],
            row["libraries"]["numpy"],
            row["hpke"],
            f"{row['bytes'] / 2**20:.1f}",
            str(sizes["all_but_opencl"]),
            str(sizes["opencl"]),
            *(str(agreement["logits"].get(name, "-")) for name in ("litert", "opencl", "numpy")),
            ", ".join(f"{name} {value:.0e}" for name, value in agreement["weights"].items()),
            row["round"]["phase"],
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
