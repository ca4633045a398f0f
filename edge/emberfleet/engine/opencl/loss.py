"""Softmax and its cross-entropy: records the launches."""

from __future__ import annotations

from emberfleet.engine.opencl.layout import View
from emberfleet.engine.opencl.program import ARENA, Program


def softmax_cross_entropy(
    program: Program, logits: View, dlogits: View, positions: int, classes: int, smoothing: float
) -> None:
    """Record loss and gradient; labels come from the buffer `labels`, losses go to `losses`."""
    rows = logits.batch * positions
    program.emit(
        "loss",
        "softmax_cross_entropy_f32",
        (logits.batch,),
        *(ARENA, ARENA, "labels", "losses", logits, dlogits),
        (positions, classes, dlogits.padded_channels, 0),
        (smoothing / classes, 1.0 - smoothing, 1.0 / rows, 0.0),
    )


def softmax(program: Program, logits: View, y: View, positions: int, classes: int) -> None:
    """Record the softmax of the logits at each position, into `y`."""
    y.images.leave_gaps()
    program.emit(
        "loss", "softmax_forward_f32", (logits.batch,), ARENA, ARENA, logits, y, (positions, classes, 0, 0)
    )
