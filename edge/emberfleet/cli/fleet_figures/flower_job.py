"""Flower's side of the comparison: ``python -m emberfleet.cli.fleet_figures.flower_job NAME UPDATES SIZE``.

Run by a Python that has `flwr`; it needs nothing else beyond what `measuring` needs. The works: ``mask``
(Flower's client quantizes and masks for 20 neighbours), ``unmask`` (its server unmasks 50, 15 of which
vanished) and ``average`` (its mean of 100 updates, as its strategies call it). All call Flower's own
functions for these stages, with messages that stand in for its network alone.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from emberfleet.runtime.measuring import SkippedError, Work, serve

NEIGHBOURS: Final = 20
DEVICES: Final = 50
THRESHOLD: Final = 11
TENSORS: Final = 50
WEIGHT: Final = 100
SECURE: Final = "flwr.common.secure_aggregation"
QUIET: Final = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


class Cohort:
    """Flower's clients after they exchanged keys and shares, in a ring of 20 neighbours each."""

    def __init__(self, devices: int, size: int) -> None:
        self.client: Any = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
        self.constants: Any = import_module(f"{SECURE}.secaggplus_constants")
        record = import_module("flwr.app").ConfigRecord
        key = self.constants.Key
        self.ids = list(range(1000, 1000 + devices))
        half = NEIGHBOURS // 2
        self.around = {
            node: {self.ids[(place + step) % devices] for step in range(-half, half + 1)}
            for place, node in enumerate(self.ids)
        }
        numbers = np.random.default_rng(0)
        shape = (size // TENSORS,)
        self.arrays = [numbers.normal(0, 0.1, shape).astype(np.float32) for _ in range(TENSORS)]
        self.parameters = import_module("flwr.common").ndarrays_to_parameters(self.arrays)
        self.states = {node: self.client.SecAggPlusState() for node in self.ids}
        settings = {
            key.SAMPLE_NUMBER: devices,
            key.SHARE_NUMBER: NEIGHBOURS + 1,
            key.THRESHOLD: THRESHOLD,
            key.CLIPPING_RANGE: 8.0,
            key.TARGET_RANGE: 1 << 22,
            key.MOD_RANGE: 1 << 32,
            key.MAX_WEIGHT: 1000.0,
        }
        self.keys: dict[int, list[bytes]] = {}
        for node, state in self.states.items():
            state.nid = node
            sent = self.client._setup(state, record(settings))
            self.keys[node] = [sent[key.PUBLIC_KEY_1], sent[key.PUBLIC_KEY_2]]
        self.inbox: dict[int, tuple[list[int], list[bytes]]] = {node: ([], []) for node in self.ids}
        for node, state in self.states.items():
            known = record({str(other): self.keys[other] for other in self.around[node]})
            sent = self.client._share_keys(state, known)
            for other, sealed in zip(sent[key.DESTINATION_LIST], sent[key.CIPHERTEXT_LIST], strict=True):
                self.inbox[other][0].append(node)
                self.inbox[other][1].append(sealed)

    def mask(self, node: int) -> list[bytes]:
        """What a client sends."""
        key = self.constants.Key
        sources, sealed = self.inbox[node]
        message = {key.SOURCE_LIST: sources, key.CIPHERTEXT_LIST: sealed}
        sent = self.client._collect_masked_vectors(self.states[node], message, WEIGHT, self.parameters)
        masked: list[bytes] = sent[key.MASKED_PARAMETERS]
        return masked


class Masking:
    """One client's rounding and masks."""

    def __init__(self, _: int, size: int) -> None:
        self._cohort = Cohort(NEIGHBOURS + 1, size)

    def call(self) -> None:
        """As between its training and its upload."""
        self._sent = self._cohort.mask(self._cohort.ids[0])

    def facts(self) -> dict[str, Any]:
        """How long the update is."""
        return {"update_bytes": sum(map(len, self._sent))}


class Unmasking:
    """The server's last stage for 50 clients, three in ten of which vanished."""

    def __init__(self, _: int, size: int) -> None:
        self._workflow: Any = import_module("flwr.server.workflow.secure_aggregation.secaggplus_workflow")
        self._cohort = cohort = Cohort(DEVICES, size)
        self._alive = [node for place, node in enumerate(cohort.ids) if place % 10 not in (0, 3, 6)]
        arithmetic: Any = import_module(f"{SECURE}.ndarrays_arithmetic")
        codec: Any = import_module("flwr.common.secure_aggregation.secaggplus_utils")
        read = getattr(codec, "bytes_to_ndarray", None) or self._workflow.bytes_to_ndarray
        total: Any = None
        for node in self._alive:
            arrays = [read(data) for data in cohort.mask(node)]
            total = arrays if total is None else arithmetic.parameters_addition(total, arrays)
        self._total = arithmetic.parameters_mod(total, 1 << 32)
        # Flower's message needs a running task; its server reads these two fields alone.
        vars(self._workflow)["Message"] = _Message

    def call(self) -> None:
        """Shares, secrets, masks, mean."""
        workflow, cohort = self._workflow, self._cohort
        found = SimpleNamespace(parameters=None)
        state = workflow.WorkflowState(
            sampled_node_ids=set(cohort.ids),
            active_node_ids=set(self._alive),
            num_shares=NEIGHBOURS + 1,
            threshold=THRESHOLD,
            clipping_range=8.0,
            quantization_range=1 << 22,
            mod_range=1 << 32,
            max_weight=1000.0,
            nid_to_neighbours=copy.deepcopy(cohort.around),
            nid_to_publickeys=cohort.keys,
            aggregate_ndarrays=[array.copy() for array in self._total],
        )
        state.legacy_results = [(None, found)]
        records = import_module("flwr.app")
        counter = records.ConfigRecord({workflow.WorkflowKey.CURRENT_ROUND: 1})
        context = SimpleNamespace(
            state=records.RecordDict({workflow.MAIN_CONFIGS_RECORD: counter}),
            strategy=SimpleNamespace(aggregate_fit=lambda *_: (None, {})),
        )
        stages = workflow.SecAggPlusWorkflow(NEIGHBOURS + 1, THRESHOLD)
        self._fine = stages.unmask_stage(_Network(cohort, workflow), context, state)
        self._parameters = found.parameters

    def facts(self) -> dict[str, Any]:
        """The mean of equal updates must be each of them, to a step of the rounding."""
        assert self._fine
        mean = import_module("flwr.common").parameters_to_ndarrays(self._parameters)
        error = max(float(np.abs(a - b).max()) for a, b in zip(mean, self._cohort.arrays, strict=True))
        assert error < 1e-3, error
        return {"largest_error": error}


class Averaging:
    """Flower's mean of updates, as its strategies call it."""

    def __init__(self, updates: int, size: int) -> None:
        app: Any = import_module("flwr.app")
        self._function: Any = import_module("flwr.serverapp.strategy.strategy_utils").aggregate_arrayrecords
        values = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
        self._expected = values
        self._records = [
            app.RecordDict(
                {
                    "arrays": app.ArrayRecord([np.array(part) for part in np.split(values, TENSORS)]),
                    "metrics": app.MetricRecord({"num-examples": 1 + index % 30}),
                }
            )
            for index in range(updates)
        ]

    def call(self) -> None:
        """All of them."""
        self._mean = self._function(self._records, "num-examples")

    def facts(self) -> dict[str, Any]:
        """The mean of equal updates is each of them."""
        mean = np.concatenate(self._mean.to_numpy_ndarrays())
        assert np.allclose(mean, self._expected, rtol=1e-3, atol=1e-6)
        return {"bytes": len(self._records) * self._expected.nbytes}


class _Message:
    def __init__(self, content: Any, dst_node_id: int, message_type: str, group_id: str) -> None:
        self.content, self.metadata = content, SimpleNamespace(dst_node_id=dst_node_id)


class _Network:
    """Asks the clients for their shares, at once."""

    def __init__(self, cohort: Cohort, workflow: Any) -> None:
        self._cohort, self._workflow = cohort, workflow

    def send_and_receive(self, messages: Sequence[Any], timeout: float | None = None) -> list[Any]:
        records, name = import_module("flwr.app"), self._workflow.RECORD_KEY_CONFIGS
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            asked = message.content.config_records[name]
            shares = records.ConfigRecord(self._cohort.client._unmask(self._cohort.states[node], asked))
            replies.append(
                SimpleNamespace(
                    metadata=SimpleNamespace(src_node_id=node),
                    content=records.RecordDict({name: shares}),
                    has_error=lambda: False,
                )
            )
        return replies


WORKS: Final[Mapping[str, Callable[[int, int], Work]]] = {
    "mask": Masking,
    "unmask": Unmasking,
    "average": Averaging,
}


def prepare(name: str, updates: int, size: int) -> Work:
    """Raises `SkippedError` where this Python has no Flower."""
    os.environ.update(QUIET)
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    try:
        import_module("flwr")
    except ImportError as error:
        raise SkippedError(f"this Python has no flwr: {sys.executable}") from error
    return WORKS[name](updates, size)


if __name__ == "__main__":
    serve(lambda: prepare(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
