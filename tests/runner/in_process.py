"""Runs ember-run within a process whose PoCL has been told the processor's name (`engine.opencl.pocl_cpu`).

python -m tests.runner.in_process EMBER_RUN_SO WORDS...
"""

from __future__ import annotations

import ctypes
import sys

from emberfleet.core.errors import DeviceError
from tests.runner.pocl import prepared_library


def main() -> int:
    """Call the program's main with the words given; 77 where there is no OpenCL device."""
    try:
        prepared_library()
    except DeviceError as error:
        sys.stderr.write(f"{error}\n")
        return 77
    library = ctypes.CDLL(sys.argv[1])
    words = [word.encode() for word in ("ember-run", *sys.argv[2:])]
    status: int = library.ember_run_main(len(words), (ctypes.c_char_p * len(words))(*words))
    # What C has buffered is written before Python ends.
    ctypes.CDLL(None).fflush(None)
    return status


if __name__ == "__main__":
    sys.exit(main())
