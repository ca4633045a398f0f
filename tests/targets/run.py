"""Every form a trained model leaves in, made by `emberfleet convert` and really run: `make test-targets`.

A small network learns the digits in examples/data, is written for each target, and is run there by what
users run it with. Its answers to the test digits are held against the numpy reference. A table goes to the
terminal, the figures to build/targets.json. A target whose runtime is missing here says so and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.targets import hosts, interpreters, packages
from tests.targets.subject import Answer, Subject, TargetError, UnavailableError

TARGETS: Mapping[str, Callable[[Subject], list[Answer]]] = {
    "tflite-float32": interpreters.tflite_float32,
    "tflite-float16": interpreters.tflite_float16,
    "tflite-int8": interpreters.tflite_int8,
    "onnx-float32": interpreters.onnx_float32,
    "onnx-int8": interpreters.onnx_int8,
    "opencl": hosts.opencl,
    "runner": hosts.runner,
    "raspberrypi": packages.raspberrypi,
    "android": packages.android,
}
FAILED = "failed"
REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run all targets, or those named; 0 when none failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(TARGETS), default=[], help="may repeat")
    parser.add_argument("--roots", type=Path, help="root folders of emulated Raspberry Pis")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build")
    options = parser.parse_args()
    say = Console(stderr=True, soft_wrap=True, highlight=False)
    say.print("Training the network that is converted")
    subject = Subject.make(options.out.resolve() / "targets", options.roots)
    rows: list[dict[str, Any]] = []
    for target in options.only or TARGETS:
        say.print(target)
        rows += run_target(target, subject)
        (options.out / "targets.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    Console(width=160).print(table_of(rows))
    return 1 if any(row["agreement"].startswith(FAILED) for row in rows) else 0


def run_target(target: str, subject: Subject) -> list[dict[str, Any]]:
    """The rows of one target; a failure is a row too."""
    try:
        return [{"target": target, **answer.row()} for answer in TARGETS[target](subject)]
    except UnavailableError as error:
        return [_empty(target, f"not run: {error}")]
    except (TargetError, OSError) as error:
        return [_empty(target, f"{FAILED}: {error}")]


def _empty(target: str, agreement: str) -> dict[str, Any]:
    return {"target": target, "artefact": "", "bytes": 0, "ran": "", "agreement": agreement}


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The rows for people."""
    table = Table("target", "artefact", "bytes", "what really ran it", "agreement with the numpy reference")
    for row in rows:
        table.add_row(row["target"], row["artefact"], f"{row['bytes']:,}", row["ran"], row["agreement"])
    return table


if __name__ == "__main__":
    sys.exit(main())
