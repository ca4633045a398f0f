"""Writes graph_parameters.json: degrees and thresholds of SecAgg+ graphs by another's hand.

``python make_graph_parameters.py FILE`` takes a Python file with ``find(N, corrupt, dropout)``, written apart
from ours after Bell et al. 2020 and confirmed by the test table of Google's federated-compute. It gives the
degree, the lowest and the highest threshold for sigma 40 and eta 20.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

COHORTS = (50, 100, 300, 1000, 3000, 10000)
CORRUPT = (0.05, 0.1, 0.2, 0.33)
DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.33)
TARGET = Path(__file__).with_name("graph_parameters.json")


def main() -> None:
    find = runpy.run_path(sys.argv[1])["find"]
    rows = [
        [cohort, corrupt, dropout, *find(cohort, corrupt, dropout)]
        for cohort in COHORTS
        for corrupt in CORRUPT
        for dropout in DROPOUT
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    TARGET.write_text(f"[\n{lines}\n]\n", "utf-8")


if __name__ == "__main__":
    main()
