"""What is converted: a trained network, the digits it is shown, and the answers of the numpy reference."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from emberfleet.core.arrays import Array, Float32, Int8, UInt8
from emberfleet.core.graph import without_softmax
from emberfleet.core.integer import IntegerNetwork
from emberfleet.core.lowering import quantize
from emberfleet.core.signing import SigningKey
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.train.data.names import load
from emberfleet.train.trained import TrainedModel
from tests.digits import DIGITS, train_digits

SHOWN = 100


class TargetError(Exception):
    """A target's answers are not what they must be, or its program failed."""


class UnavailableError(Exception):
    """What would run a target is not on this machine; the text names it."""


@dataclass(frozen=True)
class Answer:
    """One row of the table."""

    artefact: Path
    ran: str
    agreement: str

    def row(self) -> dict[str, Any]:
        """As it stands in targets.json."""
        return {
            "artefact": self.artefact.name,
            "bytes": self.artefact.stat().st_size,
            "ran": self.ran,
            "agreement": self.agreement,
        }


@dataclass(frozen=True)
class Subject:
    """A folder with the trained model, the key that signs its bundles, and all that is made of it."""

    folder: Path
    roots: Path | None = None

    @classmethod
    def make(cls, folder: Path, roots: Path | None = None) -> Subject:
        """Train the model, unless it is there from before."""
        subject = cls(folder, roots)
        folder.mkdir(parents=True, exist_ok=True)
        if not subject.key_file.exists():
            SigningKey.generate().save(subject.key_file)
        if not subject.trained.exists():
            train_digits(subject.trained)
        return subject

    @property
    def trained(self) -> Path:
        """What `emberfleet convert` is given."""
        return self.folder / "model"

    @property
    def key_file(self) -> Path:
        """Who signs."""
        return self.folder / "signer.pem"

    @cached_property
    def key(self) -> SigningKey:
        """The key that signs."""
        return SigningKey.load(self.key_file)

    def convert(self, kind: str, name: str, *words: str | Path) -> Path:
        """What `emberfleet convert --to kind` writes.

        Raises:
            TargetError: the command fails; its message.
        """
        out = self.folder / name
        ember("convert", self.trained, "--to", kind, "--out", out, "--key", self.key_file, *words)
        return out

    @cached_property
    def model(self) -> TrainedModel:
        """The model as it was trained."""
        return TrainedModel.load(self.trained)

    @cached_property
    def network(self) -> IntegerNetwork:
        """The same in int8."""
        return quantize(self.model.graph, self.model.tensors)

    @cached_property
    def pixels(self) -> UInt8:
        """``(SHOWN, H, W, C)``: digits that the network has not learnt from."""
        return load("handwriting", DIGITS, "test").images[:SHOWN]

    @cached_property
    def x(self) -> Float32:
        """The digits as the network takes them."""
        return self.model.preprocessing.apply(self.pixels)

    @cached_property
    def scores(self) -> Float32:
        """Float logits of the numpy backend."""
        graph = without_softmax(self.model.graph)
        return NumpyBackend().predictor(graph, self.model.tensors, SHOWN).run(self.x)

    @cached_property
    def probabilities(self) -> Float32:
        """The whole graph's output by the numpy backend."""
        return NumpyBackend().predictor(self.model.graph, self.model.tensors, SHOWN).run(self.x)

    @cached_property
    def codes(self) -> Int8:
        """int8 logits of the numpy reference."""
        return NumpyBackend().integer_predictor(self.network, SHOWN).run_integer(self.quantized)

    @cached_property
    def quantized(self) -> Int8:
        """The digits as int8 networks take them."""
        return self.network.input_tensor.params.quantize(self.x)

    def float_agreement(self, found: Array, expected: Float32, limit: float) -> str:
        """How far real numbers are from the reference, as a share of its largest value.

        Raises:
            TargetError: further than `limit`.
        """
        found = found.reshape(expected.shape)
        distance = float(np.abs(found - expected).max() / np.abs(expected).max())
        if not distance <= limit:
            raise TargetError(f"{distance:.1e} of the largest value from the reference, at most {limit:.0e}")
        same = int((found.argmax(-1) == expected.argmax(-1)).sum())
        return f"within {distance:.0e} of the largest value; {same} of {len(expected)} answers the same"

    def int8_agreement(self, found: Array, limit: int) -> str:
        """How far int8 logits are from the reference.

        Raises:
            TargetError: further than `limit` steps.
        """
        steps = np.abs(found.reshape(self.codes.shape).astype(np.int32) - self.codes)
        if steps.max() > limit:
            raise TargetError(f"{steps.max()} int8 steps from the reference, expected {limit} at most")
        if steps.max() == 0:
            return f"bit for bit, {steps.size} logits"
        return f"{int((steps == 0).sum())} of {steps.size} logits equal, the others {steps.max()} step off"


def ember(*words: object) -> str:
    """What a command of Emberfleet prints on this machine.

    Raises:
        TargetError: it fails; its message.
    """
    command = [sys.executable, "-m", "emberfleet.cli", *map(str, words)]
    return run(command)


def run(command: list[str]) -> str:
    """What a program prints.

    Raises:
        TargetError: it fails; the last line of its message.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise TargetError(f"{Path(command[0]).name}: {said[-1] if said else done.returncode}")
    return done.stdout


def tool(name: str) -> str:
    """Where a program lies.

    Raises:
        UnavailableError: it is not installed.
    """
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        raise UnavailableError(f"{name} is not installed")
    return path
