"""The peers of each kind of work, and the interpreters that have them.

`make bench-peers` makes the environments from the requirements files beside this module, one folder each:
torch and TensorFlow do not agree on the versions of what they share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine.job import BFLOAT16, FLOAT32, INFER, INT8, TRAIN

MAIN, TENSORFLOW = "main", "tf"


@dataclass(frozen=True, slots=True)
class Peer:
    """A library in one of its forms.

    Attributes:
        name: In tables.
        module: Of this package; its process.
        variant: What the module calls the form.
        environment: Folder of the interpreter.
        precision: In which it computes.
    """

    name: str
    module: str
    variant: str
    environment: str = MAIN
    precision: str = FLOAT32


CHANNELS_LAST, EAGER = "torch channels_last", "torch eager"

PEERS: Mapping[tuple[str, str], tuple[Peer, ...]] = {
    (TRAIN, FLOAT32): (
        Peer(CHANNELS_LAST, "torch_job", "channels_last"),
        Peer(f"{CHANNELS_LAST} compiled", "torch_job", "compiled"),
        Peer(EAGER, "torch_job", "eager"),
        Peer("TensorFlow", "tensorflow_job", "function", TENSORFLOW),
        Peer("torch bf16 channels_last", "torch_job", "bf16", precision=BFLOAT16),
    ),
    (INFER, FLOAT32): (
        Peer("ONNX Runtime", "runtimes_job", "onnxruntime"),
        Peer("LiteRT", "runtimes_job", "litert"),
        Peer("OpenVINO", "runtimes_job", "openvino"),
        Peer(CHANNELS_LAST, "torch_job", "channels_last"),
    ),
    (INFER, INT8): (
        Peer("LiteRT", "runtimes_job", "litert", precision=INT8),
        Peer("ONNX Runtime", "runtimes_job", "onnxruntime", precision=INT8),
        Peer("OpenVINO", "runtimes_job", "openvino", precision=INT8),
    ),
}
"""By kind of work and precision."""


def interpreter(folder: Path, environment: str) -> str:
    """The Python of an environment; empty where it was not made."""
    found = folder / environment / "bin" / "python"
    return str(found.absolute()) if found.exists() else ""
