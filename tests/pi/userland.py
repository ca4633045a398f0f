"""An emulated Raspberry Pi seen from this machine: commands run in it, and what it installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ENTER = Path(__file__).resolve().parent / "enter.sh"
LOADERS = {"armhf": "lib/ld-linux-armhf.so.3", "arm64": "lib/ld-linux-aarch64.so.1"}
STATUS = "var/lib/dpkg/status"
NOTHING: Mapping[str, str] = {}


class UserlandError(Exception):
    """A command in the emulated Pi failed."""


@dataclass(frozen=True)
class Userland:
    """One root folder with a layer of changes on top, which is thrown away at the start.

    Attributes:
        target: Processor and Debian, such as ``armhf-bookworm``.
        root: The folder made by debootstrap; never changed.
        layer: Where changes go.
        shown: Folders of this machine by the name under which the Pi sees them.
    """

    target: str
    root: Path
    layer: Path
    shown: Mapping[str, Path]

    @classmethod
    def fresh(cls, root: Path, layer: Path, shown: Mapping[str, Path]) -> Userland:
        """Take a root without any earlier changes."""
        if layer.exists():
            shutil.rmtree(layer)
        layer.mkdir(parents=True)
        target = target_of(root)
        assert target is not None
        return cls(target, root, layer, shown)

    def run(self, *command: str, fails: bool = False, environment: Mapping[str, str] = NOTHING) -> str:
        """Run a command as root and give what it wrote.

        Raises:
            UserlandError: it failed, or did not where ``fails`` says that it should.
        """
        binds = " ".join(f"{folder}:{place}" for place, folder in self.shown.items())
        settings = [f"{name}={value}" for name, value in environment.items()]
        done = subprocess.run(
            ["bash", str(ENTER), str(self.root), str(self.layer), "env", *settings, *command],
            env={**os.environ, "BIND": binds},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if (done.returncode != 0) != fails:
            said = (done.stdout + done.stderr)[-3000:]
            raise UserlandError(f"{self.target}: {' '.join(command)}: code {done.returncode}\n{said}")
        return done.stdout + done.stderr

    def as_device(self, *command: str, fails: bool = False, environment: Mapping[str, str] = NOTHING) -> str:
        """Run a command as the service's own user; raises as `run` does."""
        user = ("setpriv", "--reuid=emberfleet", "--regid=emberfleet", "--init-groups")
        home = ("env", "HOME=/var/lib/emberfleet")
        return self.run(*user, *home, *command, fails=fails, environment=environment)

    def changed(self, path: str) -> Path:
        """Where a file lies on this machine that was made or changed in the Pi."""
        return self.layer / "upper" / path.lstrip("/")

    def mib(self, path: str) -> float:
        """What a folder made in the Pi takes, in MiB."""
        folder = self.changed(path)
        files = [found.lstat() for found in folder.rglob("*")] if folder.is_dir() else []
        return sum(found.st_blocks * 512 for found in files) / 2**20


def target_of(root: Path) -> str | None:
    """``arm64-trixie`` and the like for a root folder; None for any other folder."""
    try:
        release = (root / "etc/os-release").read_text()
    except OSError:
        return None
    codename = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    processor = next((name for name, loader in LOADERS.items() if (root / loader).exists()), None)
    return f"{processor}-{codename[1]}" if codename and processor else None


def find_roots(folder: Path) -> list[Path]:
    """The folder itself if it is a root, else the roots right below it, by target."""
    candidates = [folder, *folder.iterdir()] if folder.is_dir() else []
    found = {target: path for path in candidates if (target := target_of(path)) is not None}
    return [found[target] for target in sorted(found)]


def what_is_missing() -> list[str]:
    """What this machine lacks to run an emulated Pi, in words."""
    missing = []
    if os.geteuid() != 0:
        missing.append("root: run it with sudo")
    for name, format_ in (("arm64", "qemu-aarch64"), ("armhf", "qemu-arm")):
        if not Path("/proc/sys/fs/binfmt_misc", format_).exists():
            missing.append(f"{format_} for {name}: apt install qemu-user-static binfmt-support")
    if shutil.which("unshare") is None:
        missing.append("unshare: apt install util-linux")
    return missing


def installed_with(status: Path, packages: Iterable[str], beside: Iterable[str]) -> dict[str, int]:
    """KiB of each Debian package that comes with `packages` and not already with `beside`.

    What Raspberry Pi OS has in every flavour counts as beside: essential, required and important packages.
    """
    known = _read_status(status)
    always = [name for name, fields in known.items() if fields.get("Priority") in ("required", "important")]
    there = _closure(known, [*always, *beside])
    return {
        name: int(known[name].get("Installed-Size", "0"))
        for name in sorted(_closure(known, packages) - there)
    }


def _read_status(status: Path) -> dict[str, dict[str, str]]:
    known = {}
    for paragraph in status.read_text().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            known[fields["Package"]] = fields
    return known


def _closure(known: Mapping[str, Mapping[str, str]], packages: Iterable[str]) -> set[str]:
    """What has to be there for `packages`: of alternatives and virtual packages, those that are installed."""
    providers: dict[str, list[str]] = {}
    for name, fields in known.items():
        for provided in [name, *re.findall(r"([a-z0-9.+-]{2,})(?: \([^)]*\))?", fields.get("Provides", ""))]:
            providers.setdefault(provided, []).append(name)
    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        wanted = waiting.pop()
        for name in providers.get(wanted, []):
            if name in found:
                continue
            found.add(name)
            needs = f"{known[name].get('Pre-Depends', '')},{known[name].get('Depends', '')}"
            waiting += re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]+)", needs)
    return found
