"""Event files read back with TensorBoard's own messages."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emberfleet.train.tensorboard import EventLog

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
