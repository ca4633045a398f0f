"""Fills a folder with the wheels that a Raspberry Pi needs, so that the Pi itself needs no package index.

    python wheelhouse.py TARGET FOLDER

TARGET is arm64-bookworm, arm64-trixie, armhf-bookworm or armhf-trixie: the processor and the Debian that is
below the Raspberry Pi OS. On 32 bit (armhf), numpy, cryptography, pyopencl and Pillow are Debian's own.

    emberfleet convert build/my-model --to raspberrypi --wheelhouse FOLDER --out my-model.deb
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A Raspberry Pi OS: its processor as wheels call it, its Python, its C library, and what to add."""

    processor: str
    python: str
    glibc: int
    also: tuple[str, ...] = ()

    @property
    def platforms(self) -> list[str]:
        """Every platform tag that runs there."""
        names = [f"manylinux_2_{minor}" for minor in range(17, self.glibc + 1)] + ["manylinux2014", "linux"]
        return [f"{name}_{self.processor}" for name in names]


EVERYWHERE = ("tflite",)
OF_64_BIT = ("ai-edge-litert", "pyopencl", "pillow")
TARGETS = {
    "arm64-bookworm": Target("aarch64", "3.11", 36, OF_64_BIT),
    "arm64-trixie": Target("aarch64", "3.13", 41, OF_64_BIT),
    # The last tflite-runtime with a wheel for 32 bit is one for Python 3.11.
    "armhf-bookworm": Target("armv7l", "3.11", 36, ("tflite-runtime==2.14.0",)),
    "armhf-trixie": Target("armv7l", "3.13", 41),
}


def download(target: Target, folder: Path, *wanted: str) -> None:
    """Let pip choose and fetch wheels for another machine than this one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--python-version", target.python, "--implementation", "cp"]
    for platform in target.platforms:
        command += ["--platform", platform]
    subprocess.run([*command, "--dest", str(folder), *wanted], check=True)


def fill(name: str, folder: Path) -> None:
    """Fetch what Emberfleet requires, and what it runs models with, for one of `TARGETS`."""
    target = TARGETS[name]
    base = [line for line in requires("emberfleet") or () if "extra ==" not in line]
    folder.mkdir(parents=True, exist_ok=True)
    if target.processor == "aarch64":
        download(target, folder, *base, *EVERYWHERE, *target.also)
        return
    # Nobody publishes all of these for 32 bit: they are looked up for 64 bit, and what is compiled goes.
    download(TARGETS[name.replace("armhf", "arm64")], folder, *base, *EVERYWHERE)
    for wheel in folder.glob("*.whl"):
        if not re.search(r"-none-any\.whl$", wheel.name):
            wheel.unlink()
    if target.also:
        download(target, folder, "--no-deps", *target.also)


def main() -> None:
    """Fill the folder and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    fill(options.target, options.folder)
    wheels = sorted(options.folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{options.folder}: {len(wheels)} wheels, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
