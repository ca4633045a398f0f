"""A bundle compressed for download, and back, bit for bit."""

from emberfleet.converters.wire.wire import encode_wire, is_wire, open_wire

__all__ = ["encode_wire", "is_wire", "open_wire"]
