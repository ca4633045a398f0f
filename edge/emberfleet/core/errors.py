"""Every error a caller can act on: one root, one family per subject.

A message says what was found, what was expected and, for a user, what to do. The HTTP layer and
the command line each map these families in one table.
"""

from __future__ import annotations


class EmberError(Exception):
    """Root of all errors raised on purpose by Emberfleet."""


class ShapeError(EmberError):
    """An array or a graph node does not have the shape its place calls for."""


class QuantError(EmberError):
    """A range, scale or zero point that cannot stand for real numbers in 8 bits."""


class FormatError(EmberError):
    """Bytes from outside are not what their format says: truncated, oversized, malformed."""


class DataError(EmberError):
    """A data set is missing, damaged or mislabelled; names the file and the offset."""


class SignatureError(EmberError):
    """A signature does not verify, or its key is not trusted."""


class SealError(EmberError):
    """A sealed message does not open. One message, no detail an attacker could use."""


class DeviceError(EmberError):
    """A compute device is missing, refuses to build a kernel or runs out of memory."""


class BuildError(DeviceError):
    """A driver refuses a program, or cannot run it as it was built: other kernels may still work there."""


class RoundError(EmberError):
    """A step of a federated round that its present state does not allow."""


class EnrolmentError(EmberError):
    """A token or a device identity that the server does not accept."""


class StorageError(EmberError):
    """A file, folder or database that cannot be read or written."""


class ConversionError(EmberError):
    """A model that a target cannot express."""


class ConfigError(EmberError):
    """A setting a user chose that cannot be honoured."""


def in_one_line(error: Exception | str) -> str:
    """The line of a long complaint that says the most: a compiler's first error, else its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    fault = next((line for line in lines if line.startswith("error:") or " error: " in line), None)
    head = lines[0] if lines else "unknown"
    if fault is None or fault in head:
        return head
    return f"{head.partition(':')[0]}: {fault}"
