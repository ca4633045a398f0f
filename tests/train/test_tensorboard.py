"""Event files read back with TensorBoard's own messages."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emberfleet.train.history import EpochRecord
from emberfleet.train.tensorboard import EventLog, EventObserver

pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")


def records(data: bytes) -> list[bytes]:
    """The payloads of a TFRecord file: length, checksum, payload, checksum."""
    found = []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def test_scalars_are_read_back_from_the_event_file(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    with EventLog(tmp_path) as log:
        log.write(1, {"loss/train": 0.5, "accuracy/validation": 0.25})
        log.write(2, {"loss/train": 0.125})
    (file,) = tmp_path.glob("events.out.tfevents.*")
    events = [Event.FromString(payload) for payload in records(file.read_bytes())]
    points = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert points == [(1, "loss/train", 0.5), (1, "accuracy/validation", 0.25), (2, "loss/train", 0.125)]


def test_a_run_is_written_with_its_steps_counted_through_both_phases(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    observer = EventObserver(tmp_path, every=2)
    observer.on_phase("float", 0, 1, 3)
    for step in range(3):
        observer.on_step(step, 1.0, 0.5)
    observer.on_epoch(EpochRecord(1, "float", 0.5, 1.0, None, None, 2.0))
    observer.on_phase("quantized", 0, 1, 3)
    observer.on_step(0, 0.25, 0.125)
    observer.close()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    events = [Event.FromString(payload) for payload in records(file.read_bytes())]
    points = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert [p for p in points if p[1] == "step/loss"] == [
        (0, "step/loss", 1.0), (2, "step/loss", 1.0), (3, "step/loss", 0.25),
    ]  # fmt: skip
    assert (1, "epoch/loss", 1.0) in points
    assert not any(tag == "epoch/validation_accuracy" for _, tag, _ in points)
