"""A disk that turns read-only under a running process: the kernel refuses it every call that changes a file.

A file system that finds itself broken does that to files that are open already. One that is in use cannot be
remounted, so the calls are refused by a filter (seccomp) over all threads of the process; no privileges are
needed, and it cannot be taken back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Final

PERMITTED: Final = sys.platform == "linux" and platform.machine() == "x86_64"
_ARCHITECTURE: Final = 0xC000003E
_OPENAT: Final = 257
_CHANGES: Final = {
    "pwrite64": 18, "truncate": 76, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "unlink": 87,
    "mkdirat": 258, "unlinkat": 263, "renameat": 264, "fallocate": 285, "pwritev": 296, "renameat2": 316,
}  # fmt: skip
"""Numbers of system calls on x86-64."""
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_REFUSE: Final = 0x00050000 | errno.EROFS
_ALLOW: Final = 0x7FFF0000
_SECCOMP: Final = 317
_SET_NO_NEW_PRIVILEGES: Final = 38


def turn_read_only() -> None:
    """From here on no thread of this process changes a file."""
    # Each: code, jump if true, jump if false, value. Offsets into the call: number 0, architecture 4,
    # the third argument, which holds the flags of openat, 32.
    refuse = [(_RETURN, 0, 0, _REFUSE)]
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURE), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, 0)]
    for number in _CHANGES.values():
        program += [(_EQUAL, 0, 1, number), *refuse]
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    program += [(_EQUAL, 0, 3, _OPENAT), (_LOAD, 0, 0, 32), (_ANY_BIT, 0, 1, writing), *refuse]
    program.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in program))
    head = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code))
    library = ctypes.CDLL(None, use_errno=True)
    every_thread = 1
    if library.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.syscall(_SECCOMP, 1, every_thread, head):
        raise OSError(ctypes.get_errno(), "the filter is not taken")
