"""Runs a Java program within a process whose PoCL was told the processor's name (`engine.opencl.pocl_cpu`).

python -m tests.converters.android.in_process LIBJVM CLASS_PATH LIBRARY_PATH CLASS WORDS...
"""

from __future__ import annotations

import ctypes
import sys

NO_DEVICE = 77
JNI_VERSION = 0x00010008
# Places in the table of JNI's functions (Java Native Interface Specification, chapter 4).
FIND_CLASS, DESCRIBE, GET_STATIC_METHOD, CALL_STATIC_VOID = 6, 16, 113, 143
NEW_STRING, NEW_ARRAY, SET_ELEMENT = 167, 172, 174


class Option(ctypes.Structure):
    """JavaVMOption."""

    _fields_ = (("text", ctypes.c_char_p), ("extra", ctypes.c_void_p))


class Arguments(ctypes.Structure):
    """JavaVMInitArgs."""

    _fields_ = (
        ("version", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("options", ctypes.POINTER(Option)),
        ("lenient", ctypes.c_ubyte),
    )


class Java:
    """A virtual machine in this process."""

    def __init__(self, library: str, *options: str) -> None:
        listed = (Option * len(options))(*(Option(option.encode(), None) for option in options))
        machine, self._env = ctypes.c_void_p(), ctypes.c_void_p()
        made = ctypes.CDLL(library).JNI_CreateJavaVM(
            ctypes.byref(machine),
            ctypes.byref(self._env),
            ctypes.byref(Arguments(JNI_VERSION, len(options), listed, 0)),
        )
        if made != 0:
            raise OSError(f"{library}: JNI_CreateJavaVM gives {made}")

    def call(self, index: int, *values: object) -> int:
        """A function of JNI's table; what it gives, as a pointer."""
        table = ctypes.cast(self._env, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))).contents
        function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, *(_type(value) for value in values))
        return int(function(table[index] or 0)(self._env, *values) or 0)

    def main(self, name: str, words: list[str]) -> None:
        """Run a class's main to its end."""
        kind, text = self.call(FIND_CLASS, name.encode()), self.call(FIND_CLASS, b"java/lang/String")
        array = self.call(NEW_ARRAY, len(words), text, 0)
        for place, word in enumerate(words):
            self.call(SET_ELEMENT, array, place, self.call(NEW_STRING, word.encode()))
        method = self.call(GET_STATIC_METHOD, kind, b"main", b"([Ljava/lang/String;)V")
        self.call(CALL_STATIC_VOID, kind, method, (ctypes.c_void_p * 1)(array))
        self.call(DESCRIBE)


def _type(value: object) -> type:
    return ctypes.c_char_p if isinstance(value, bytes) else ctypes.c_void_p


def main() -> int:
    """Run the class that the command line names; 77 where there is no OpenCL device."""
    from emberfleet.core.errors import DeviceError
    from emberfleet.engine.opencl.device import open_device
    from emberfleet.engine.opencl.pocl_cpu import mend_unknown_cpu

    try:
        (device,) = open_device().context.devices
    except DeviceError as error:
        sys.stderr.write(f"{error}\n")
        return NO_DEVICE
    devices = device.platform.get_devices()
    for each in devices:
        mend_unknown_cpu(each, str(device.platform.version), devices)
    library, class_path, library_path, name, *words = sys.argv[1:]
    java = Java(
        library,
        f"-Djava.class.path={class_path}",
        f"-Djava.library.path={library_path}",
        "-Xcheck:jni",
        "-Xrs",
    )
    java.main(name, words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
