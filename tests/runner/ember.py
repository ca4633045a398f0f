"""ember.h by ctypes: the native runner as another language calls it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from emberfleet.core.arrays import Array, Float32, Int8

Verifier = Callable[[bytes, bytes, bytes], int]
"""Key, signature, message: 1, 0, or -1 where that cannot be told."""

_VERIFY = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint8),
    ctypes.POINTER(ctypes.c_uint8),
    ctypes.POINTER(ctypes.c_uint8),
    ctypes.c_size_t,
)


class Status(IntEnum):
    """ember_status."""

    OK = 0
    BAD_ARGUMENT = 1
    BAD_FILE = 2
    BAD_FORMAT = 3
    BAD_SIGNATURE = 4
    NO_VERIFIER = 5
    NO_OPENCL = 6
    BAD_DEVICE = 7
    NO_MEMORY = 8


class Input(IntEnum):
    """ember_input."""

    PIXELS = 0
    FLOATS = 1
    RGBA = 2


class _Error(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("text", ctypes.c_char * 512)]


class _Options(ctypes.Structure):
    _fields_ = [
        ("trusted_keys", ctypes.c_char_p),
        ("trusted_key_count", ctypes.c_size_t),
        ("caller_has_verified", ctypes.c_int),
        ("verify", _VERIFY),
        ("verify_context", ctypes.c_void_p),
        ("opencl_library", ctypes.c_char_p),
        ("platform", ctypes.c_char_p),
        ("plan", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("max_bytes", ctypes.c_size_t),
    ]


class _Info(ctypes.Structure):
    _fields_ = [
        ("model_name", ctypes.c_char_p),
        ("model_version", ctypes.c_uint64),
        ("height", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("channels", ctypes.c_uint32),
        ("positions", ctypes.c_uint32),
        ("classes", ctypes.c_uint32),
        ("score_count", ctypes.c_size_t),
        ("labels", ctypes.POINTER(ctypes.c_char_p)),
        ("plan", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("platform", ctypes.c_char_p),
        ("device", ctypes.c_char_p),
        ("device_bytes", ctypes.c_uint64),
    ]


class EmberError(Exception):
    """A call that failed: its status, and its reason as text."""

    def __init__(self, error: _Error) -> None:
        super().__init__(error.text.decode())
        self.status = Status(error.status)


class Ember:
    """A loaded libember.so."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.ember_open.restype = ctypes.c_void_p
        self.library.ember_open_file.restype = ctypes.c_void_p
        self.library.ember_describe.restype = ctypes.POINTER(_Info)
        self.library.ember_codes.restype = ctypes.POINTER(ctypes.c_int8)

    def open(
        self,
        bundle: bytes | Path,
        keys: Sequence[bytes] = (),
        *,
        verified: bool = False,
        verify: Verifier | None = None,
        opencl_library: str | None = None,
        plan: str | None = None,
        precision: str | None = None,
        max_bytes: int = 0,
    ) -> Model:
        """An opened bundle; raises `EmberError`."""

        def called(_: Any, key: Any, signature: Any, message: Any, size: int) -> int:
            assert verify is not None
            return verify(
                *(ctypes.string_at(at, n) for at, n in ((key, 32), (signature, 64), (message, size)))
            )

        options = _Options(
            trusted_keys=b"".join(keys) or None,
            trusted_key_count=len(keys),
            caller_has_verified=int(verified),
            verify=_VERIFY(called) if verify else _VERIFY(),
            opencl_library=opencl_library.encode() if opencl_library else None,
            plan=plan.encode() if plan else None,
            precision=precision.encode() if precision else None,
            max_bytes=max_bytes,
        )
        error = _Error()
        last = (ctypes.byref(options), ctypes.byref(error))
        if isinstance(bundle, bytes):
            handle = self.library.ember_open(bundle, ctypes.c_size_t(len(bundle)), *last)
        else:
            handle = self.library.ember_open_file(str(bundle).encode(), *last)
        if not handle:
            raise EmberError(error)
        return Model(self.library, handle)


class Model:
    """An ember_model; closed at the end of its `with`."""

    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self._library, self._handle = library, ctypes.c_void_p(handle)
        self.info: _Info = library.ember_describe(self._handle).contents

    def run(self, kind: Input, image: Array, room: int | None = None) -> Float32:
        """The scores of one image; `room` other than what is needed is refused."""
        scores = np.full(max(self.info.score_count, 1), np.nan, np.float32)
        given = np.ascontiguousarray(image)
        error = _Error()
        status = self._library.ember_run(
            self._handle,
            ctypes.c_int(kind),
            ctypes.c_void_p(given.ctypes.data),
            ctypes.c_size_t(given.nbytes),
            ctypes.c_void_p(scores.ctypes.data),
            ctypes.c_size_t(self.info.score_count if room is None else room),
            ctypes.byref(error),
        )
        if status != Status.OK:
            raise EmberError(error)
        return scores

    @property
    def codes(self) -> Int8 | None:
        """The last run's int8 codes."""
        found = self._library.ember_codes(self._handle)
        return np.ctypeslib.as_array(found, (self.info.score_count,)).copy() if found else None

    @property
    def labels(self) -> list[str]:
        """What the scores belong to."""
        return [self.info.labels[index].decode() for index in range(self.info.classes)]

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.ember_close(self._handle)
