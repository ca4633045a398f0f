"""What a child process is told, for our engine and for every peer, and what it must show for it.

This module needs numpy and nothing else beyond Emberfleet: it runs in the peers' interpreters too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emberfleet.core.tensors import decode_tensors
from emberfleet.runtime.measuring import SkippedError, Work, serve

TRAIN, INFER = "train", "infer"
FLOAT32, BFLOAT16, INT8 = "float32", "bf16", "int8"
RATE = 1e-3
"""Of every timed training: small, since the one batch it sees is learnt by heart."""
MOMENTUM = 0.9
ADAM_EPSILON = 1e-8
NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.9
"""Of batch norm; the running value keeps so much of itself."""
FLOAT_TOLERANCE = 1e-4
"""Between two libraries' float32 outputs, as a share of the largest value."""
QUANTIZED_TOLERANCE = 0.25
"""The same between a float network and one that a library has quantized by its own rules."""


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work for one library.

    Attributes:
        kind: `TRAIN` or `INFER`.
        folder: Where `works.write_files` put the network.
        variant: Which form of the library: its own word.
        threads: Most threads.
        precision: `FLOAT32`, `BFLOAT16` or `INT8`.
        optimizer: ``adam`` or ``sgd``, the latter with momentum; of a training.
    """

    kind: str
    folder: str
    variant: str
    threads: int
    precision: str = FLOAT32
    optimizer: str = ""

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @property
    def net(self) -> dict[str, Any]:
        """The fields of `networks.SqueezeNetShape`."""
        found: dict[str, Any] = json.loads((Path(self.folder) / "net.json").read_text("utf-8"))
        return found

    @property
    def weights(self) -> dict[str, Any]:
        """Arrays by the names that they have in our graph; convolutions are ``(O, KH, KW, C)``."""
        return decode_tensors((Path(self.folder) / "weights.safetensors").read_bytes())

    def array(self, name: str) -> Any:
        """``x`` in ``(N, H, W, C)``, ``labels``, ``y``, or in int8 ``qx`` and ``qy``."""
        return np.load(Path(self.folder) / f"{name}.npy")

    def path(self, name: str) -> str:
        """A model file."""
        return str(Path(self.folder) / name)


class Training:
    """Steps of one library; the losses are judged by `compare`."""

    def __init__(self, step: Callable[[], float], version: str) -> None:
        self._step, self._version = step, version
        self._losses: list[float] = []

    def call(self) -> None:
        """One step on the one batch."""
        self._losses.append(self._step())

    def facts(self) -> dict[str, Any]:
        """The first loss, before anything was learnt, and the last."""
        return {"losses": [self._losses[0], self._losses[-1]], "version": self._version}


class Inference:
    """One image again and again; the first output was compared with the reference."""

    def __init__(self, run: Callable[[], Any], version: str, error: float) -> None:
        self._run, self._version, self._error = run, version, error

    def call(self) -> None:
        """One image."""
        self._run()

    def facts(self) -> dict[str, Any]:
        """How far the output was from the reference, as a share of the largest value, or in steps."""
        return {"error": float(f"{self._error:.2g}"), "version": self._version}


def check_float(found: Any, expected: Any, tolerance: float = FLOAT_TOLERANCE) -> float:
    """The largest difference as a share of the largest value.

    Raises:
        SkippedError: it is above the tolerance: figures of different functions do not count.
    """
    error = float(np.abs(np.asarray(found).reshape(expected.shape) - expected).max() / np.abs(expected).max())
    if not error <= tolerance:
        raise SkippedError(f"its output is {error:.3g} off the reference, expected at most {tolerance}")
    return error


def check_steps(found: Any, expected: Any, tolerance: int) -> float:
    """The largest difference in steps of int8; raises as `check_float` does."""
    error = int(np.abs(np.asarray(found).reshape(expected.shape).astype(int) - expected.astype(int)).max())
    if error > tolerance:
        raise SkippedError(f"its output is {error} steps off the reference, expected at most {tolerance}")
    return error


def serve_job(prepare: Callable[[Job], Work], reasons: type[Exception] = Exception) -> None:
    """Do what the command line says; a library that raises one of `reasons` is skipped, with what it said."""

    def prepared() -> Work:
        job = Job(**json.loads(sys.argv[1]))
        try:
            return prepare(job)
        except SkippedError:
            raise
        except reasons as error:
            text = " ".join(str(error).split())
            raise SkippedError(f"{type(error).__name__}: {text[:300]}") from error

    serve(prepared)
