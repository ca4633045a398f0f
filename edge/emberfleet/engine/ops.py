"""The op table: one row per node kind, what its backward pass reads and how it passes gradients on.

Both backends lay out their memory by it, and tests hold each backend to every row. A kind that
`core.nodes` knows and this table does not, or the other way round, fails the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from emberfleet.core.nodes import KINDS


@dataclass(frozen=True, slots=True)
class Op:
    """What every backend must provide for one node kind, and what the planners may rely on."""

    kind: str
    forward: str
    """Name of the forward computation."""
    backward: tuple[str, ...] = ()
    """Names of the backward computations."""
    in_place_gradient: bool = False
    """The gradient of the first input has the place of the output's: it may be computed in it."""
    reads_input: bool = False
    """Backward reads the input as it was in the forward pass."""
    reads_output: bool = False
    """Backward reads the output as it was in the forward pass."""
    reduction: str = ""
    """Over what a value is summed: the length that its float tolerance grows with."""


_ROWS = (
    Op("input", "input_forward"),
    Op("conv2d", "conv2d_forward",
       ("conv2d_backward_weight", "conv2d_backward_bias", "conv2d_backward_input"),
       reads_input=True, reduction="kh*kw*c forward, n*h*w weight, kh*kw*o input"),
    Op("depthwise_conv2d", "depthwise_conv2d_forward",
       ("depthwise_conv2d_backward_weight", "depthwise_conv2d_backward_bias",
        "depthwise_conv2d_backward_input"),
       reads_input=True, reduction="kh*kw forward, n*h*w weight, kh*kw*multiplier input"),
    Op("batch_norm", "batch_norm_forward", ("batch_norm_backward",),
       in_place_gradient=True, reads_input=True, reduction="n*h*w"),
    Op("relu", "relu_forward", ("relu_backward",), in_place_gradient=True, reads_output=True),
    Op("clipped_relu", "clipped_relu_forward", ("clipped_relu_backward",),
       in_place_gradient=True, reads_output=True),
    Op("max_pool", "max_pool_forward", ("max_pool_backward",)),
    Op("average_pool", "average_pool_forward", ("average_pool_backward",), reduction="kh*kw"),
    Op("global_average_pool", "global_average_pool_forward", ("global_average_pool_backward",),
       reduction="h*w"),
    Op("concat", "concat_forward", ("concat_backward",)),
    Op("add", "add_forward", ("add_backward",), in_place_gradient=True),
    Op("dropout", "dropout_forward", ("dropout_backward",), in_place_gradient=True),
    Op("reshape", "reshape_forward", ("reshape_backward",), in_place_gradient=True),
    Op("softmax", "softmax_forward", ("softmax_cross_entropy",), reduction="classes"),
)  # fmt: skip

OPS: Mapping[str, Op] = {row.kind: row for row in _ROWS}


def missing_kinds(handled: Iterable[str]) -> tuple[str, ...]:
    """Kinds that a backend does not handle, in the order of the graph's table."""
    known = set(handled)
    return tuple(kind for kind in KINDS if kind not in known)
