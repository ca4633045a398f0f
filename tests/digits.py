"""A network that learns the digits in examples/data in seconds: what packages are tried with."""

from __future__ import annotations

from pathlib import Path

from emberfleet.engine.selection import choose_backend
from emberfleet.train.data.names import load
from emberfleet.train.loop import TrainConfig
from emberfleet.train.training import choice_for, train_model

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "data" / "handwriting"


def train_digits(folder: Path) -> None:
    """Train the small network, quantized, and save it as `emberfleet train` does."""
    data, engine = load("handwriting", DIGITS, "train"), choose_backend("auto")
    config = TrainConfig(epochs=4, quantize_epochs=1, batch=32)
    train_model("small", choice_for(data, width=0.5), data, None, config, engine).save(folder)
