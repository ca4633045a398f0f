"""Error feedback: what rounding, clipping and unsent coordinates kept back is added to the next change.

``residual' = change + residual - sent``, where `sent` is what the integers in the upload stand for. Without
it a coordinate that is sent once in ten rounds loses what was learnt in the other nine. The residual stays on
the device; it is kept within what one update can carry, so that a change that is clipped in every round does
not pile up. It belongs to tensors by name and shape: clips follow the model and differ in every round.

Source:
    Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with memory", algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emberfleet.core.codec import encode_json
from emberfleet.core.digest import sha256_hex

if TYPE_CHECKING:
    from emberfleet.core.arrays import Float32
    from emberfleet.core.offers import RoundTerms
    from emberfleet.core.secure.layout import SumLayout
    from emberfleet.core.updates import UpdatePlan


def keeps_residual(terms: RoundTerms) -> bool:
    """Whether a round sends little enough for error feedback to matter."""
    return terms.secure is not None and (terms.secure.coordinates < 1 or terms.update.bits <= 8)


def residual_name(plan: UpdatePlan) -> str:
    """What a residual belongs to: the digest of the tensors' names and shapes, in order."""
    return sha256_hex(encode_json({"tensors": [[tensor.name, *tensor.shape] for tensor in plan.tensors]}))


def residual_of(change: Float32, samples: int, layout: SumLayout, seed: bytes) -> Float32:
    """What an upload of this change keeps back.

    Args:
        change: ``(layout.plan.size,)`` float32, the former residual already added.
        samples: What the device was trained on.
        layout: What stands where in the upload.
        seed: The one that the upload's rounding used.

    Returns:
        ``(layout.plan.size,)`` float32, within the plan's clips.
    """
    import numpy as np

    from emberfleet.core.secure.rounding import round_change

    sent = layout.ring.signed(round_change(change, samples, layout, seed)).astype(np.float32)
    scale = layout.heaviest / layout.weigh(samples)
    left = change.copy()
    for begin, end, clip in layout.clips(0, layout.values):
        part = slice(begin, end) if layout.chosen is None else layout.chosen[begin:end]
        left[part] -= sent[begin:end] * np.float32(clip / layout.ring.limit * scale)
    for tensor, span in layout.plan.spans():
        np.clip(left[span], -tensor.clip, tensor.clip, out=left[span])
    return left
