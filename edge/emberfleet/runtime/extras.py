"""Which optional library belongs to which extra of the package, and how it is installed here."""

from __future__ import annotations

import platform
import shutil

LIBRARIES: dict[str, tuple[str, ...]] = {
    "opencl": ("pyopencl",),
    "litert": ("ai_edge_litert",),
    "server": ("sqlalchemy", "starlette", "uvicorn"),
    "convert": ("flatbuffers", "tflite"),
    "onnx": ("onnx",),
    "train": ("PIL", "tensorboardX"),
}
"""Import names by extra; pyproject.toml names the same libraries as they are published."""

_SYSTEM_INSTALLERS = {"apt-get": "sudo apt install", "dnf": "sudo dnf install", "pacman": "sudo pacman -S"}


def extra_of_library(import_name: str) -> str | None:
    """The extra that brings a library, by the import name of any of its modules; None if none does."""
    root = import_name.partition(".")[0]
    return next((extra for extra, libraries in LIBRARIES.items() if root in libraries), None)


def install_extra(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'emberfleet[{extra}]'"


def install_system(package: str) -> str:
    """The command that installs a package of the operating system, in the words of its own installer."""
    for program, command in _SYSTEM_INSTALLERS.items():
        if shutil.which(program):
            return f"{command} {package}"
    return f"install {package} with the package manager of this system"


def install_tflite() -> str:
    """The command that installs a TFLite runtime on this processor.

    ai-edge-litert is published for 64-bit processors only; 32-bit Raspberry Pi OS has tflite-runtime, built
    against numpy 1.
    """
    if platform.machine() in {"armv6l", "armv7l"} or platform.architecture()[0] == "32bit":
        return "pip install tflite-runtime 'numpy<2'"
    return install_extra("litert")


def install_opencl_driver() -> str:
    """The command that installs an OpenCL driver: PoCL's wheel on x86-64 Linux, else the system's package."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return "pip install 'pyopencl[pocl]'"
    return install_system("pocl-opencl-icd")
