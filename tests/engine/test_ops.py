from __future__ import annotations

from emberfleet.core.nodes import KINDS
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.ops import OPS, missing_kinds


def test_the_op_table_has_a_row_for_every_kind_of_node() -> None:
    assert set(OPS) == set(KINDS)
    assert all(kind == op.kind for kind, op in OPS.items())


def test_the_numpy_backend_handles_every_kind() -> None:
    assert missing_kinds(NumpyBackend.handled) == ()


def test_a_missing_kind_is_named() -> None:
    assert missing_kinds(set(KINDS) - {"concat"}) == ("concat",)
