from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from emberfleet.cli.output import print_json


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Figures:
    path: Path
    colour: Colour
    accuracy: np.float32
    counts: np.ndarray[tuple[int], np.dtype[np.int64]]


def test_figures_of_a_command_become_plain_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"figures": Figures(Path("a/b"), Colour.RED, np.float32(0.5), np.arange(2)), "é": {3, 1}})
    assert json.loads(capsys.readouterr().out) == {
        "figures": {"path": "a/b", "colour": "red", "accuracy": 0.5, "counts": [0, 1]},
        "é": [1, 3],
    }


def test_key_bytes_are_hex(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(b"\x00\xff")
    assert capsys.readouterr().out == '"00ff"\n'


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        print_json(object())
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("nan"))
