"""How thoroughly to measure, and whose versions are told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("emberfleet", "numpy", "pyopencl", "pocl-binary-distribution", "ai-edge-litert", "cryptography")


@dataclass(frozen=True, slots=True)
class Setting:
    """One run of the benchmarks.

    Attributes:
        folder: For files that measurements need; empty at the start.
        quick: As little as shows that everything works; the figures mean nothing.
        peers: Folder of the peers' environments; None: our engine alone.
    """

    folder: Path
    quick: bool = False
    peers: Path | None = None

    @property
    def samples(self) -> int:
        """Interleaved samples of each thing."""
        return 2 if self.quick else 5

    @property
    def seconds(self) -> float:
        """Length of one sample."""
        return 0.02 if self.quick else 0.25

    @property
    def threads(self) -> tuple[int, ...]:
        """Numbers of threads to measure with."""
        return (1,) if self.quick or (os.cpu_count() or 1) < 2 else (1, 2)
