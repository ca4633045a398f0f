"""The long run: `python -m tests.fuzz --inputs 1000000 [--chance 1] [FAMILY ...]`, findings on the output."""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.fuzzing import INPUTS, fuzz_apart
from tests.fuzz.registry import FAMILIES


def main() -> int:
    """Fuzz families one after the other; 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="of a family that has 100,000 in CI")
    parser.add_argument("--chance", default="0", help="another one gives other inputs")
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    chosen = parser.parse_args()
    found = 0
    for family in FAMILIES:
        if chosen.families and family.name not in chosen.families:
            continue
        begin = time.monotonic()
        outcome = fuzz_apart(FAMILIES, family.name, family.inputs * chosen.inputs // INPUTS, chosen.chance)
        found += len(outcome.findings)
        sys.stdout.write(
            f"{family.name}: {outcome.tried} inputs, {outcome.accepted} accepted, "
            f"{len(outcome.findings)} findings, {outcome.grown_kib} KiB more memory, slowest "
            f"{outcome.slowest_s:.3f} s, all {outcome.took_s:.0f} s, "
            f"{time.monotonic() - begin:.0f} s by the wall\n"
        )
        sys.stdout.writelines(f"{finding}\n" for finding in outcome.findings)
        sys.stdout.flush()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
