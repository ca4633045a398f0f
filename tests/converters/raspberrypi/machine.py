"""A folder that dpkg takes for a machine; maintainer scripts run here with DPKG_ROOT set, as for images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

FORCED = ("script-chrootless", "depends", "not-root", "bad-path", "unsafe-io")


@dataclass(frozen=True)
class Machine:
    """The folder, and another of commands that run in place of those of their names."""

    root: Path
    tools: Path

    @classmethod
    def make(cls, folder: Path) -> Machine:
        """An empty machine; skips where dpkg or what the scripts call is missing."""
        for program in ("dpkg", "systemd-sysusers", "deb-systemd-helper"):
            if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
                pytest.skip(f"{program} is not installed")
        root, tools = folder / "root", folder / "tools"
        for path in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "usr"):
            (root / path).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        tools.mkdir()
        (tools / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (tools / "python3").chmod(0o755)
        return cls(root, tools)

    @property
    def command(self) -> list[str]:
        """Dpkg on this machine, as far as this user may."""
        return ["dpkg", f"--root={self.root}", "--log=/dev/null", *(f"--force-{name}" for name in FORCED)]

    @property
    def environment(self) -> dict[str, str]:
        """What pip would have to fetch is found in this environment."""
        return {
            "PATH": f"{self.tools}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(self.root),
            "PYTHONPATH": sysconfig.get_path("purelib"),
            "PIP_NO_INDEX": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def dpkg(self, *words: str | Path, code: int = 0) -> str:
        """Run dpkg; gives what it and the scripts said."""
        command = [*self.command, *map(str, words)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def path(self, absolute: str) -> Path:
        """Where a file of the machine lies."""
        return self.root / absolute.lstrip("/")

    def python(self, *words: str | Path) -> str:
        """Python of the environment that the installation built, away from this repository."""
        command = [self.path("/usr/lib/emberfleet/venv/bin/python"), *words]
        done = subprocess.run(
            command, env=self.environment, cwd=self.root, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
