"""What is made once on this machine for all Pis: the wheel, a model, its packages, digits, a server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path

import numpy as np

from emberfleet.core.arrays import Array
from emberfleet.core.signing import SigningKey, VerifyKey
from emberfleet.core.tensors import encode_tensors
from emberfleet.train.data.names import load
from tests.digits import DIGITS, train_digits

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
WHEELHOUSE = REPOSITORY / "examples" / "deploy_to_raspberry_pi" / "wheelhouse.py"
LEARNT = 50
SHOWN = 100


@dataclass(frozen=True)
class Desk:
    """A folder with all of it."""

    folder: Path
    wheel: Path

    @classmethod
    def make(cls, folder: Path) -> Desk:
        """Build the wheel and write the digits; train the model, unless it is there from before."""
        shown = folder / "shown"
        shown.mkdir(parents=True, exist_ok=True)
        for old in shown.glob("*.whl"):
            old.unlink()
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, "--wheel-dir", str(shown), str(REPOSITORY)], check=True, cwd=folder)
        (wheel,) = shown.glob("*.whl")
        desk = cls(folder, wheel)
        if not desk.key_file.exists():
            SigningKey.generate().save(desk.key_file)
        if not (folder / "model").exists():
            train_digits(folder / "model")
        for name, part, count in (("learn", "devices", LEARNT), ("test", "test", SHOWN)):
            data = load("handwriting", DIGITS, part)
            some = data.subset(np.random.default_rng(0).permutation(len(data))[:count])
            tensors: dict[str, Array] = {"images": some.images, "labels": some.labels}
            (shown / f"{name}.safetensors").write_bytes(encode_tensors(tensors))
        (shown / "on_device.py").write_text((HERE / "on_device.py").read_text())
        return desk

    @property
    def shown(self) -> Path:
        """The folder that every Pi sees."""
        return self.folder / "shown"

    @property
    def key_file(self) -> Path:
        """Who signs the bundles."""
        return self.folder / "signer.pem"

    @property
    def key(self) -> VerifyKey:
        """The public half of that key."""
        return SigningKey.load(self.key_file).verify_key

    def wheels(self, target: str) -> Path:
        """The wheels for a target; fetched on the first call, and where others are required than then."""
        folder = self.folder / "wheelhouse" / target
        needed = "".join(f"{line}\n" for line in requires("emberfleet") or ())
        stated = folder / "requirements.txt"
        if not stated.exists() or stated.read_text() != needed:
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, str(WHEELHOUSE), target, str(folder)], check=True)
            stated.write_text(needed)
        return folder

    def package(self, target: str, version: int) -> Path:
        """The model as `emberfleet convert --to raspberrypi` writes it, with the target's wheels."""
        out = self.shown / f"{target}-{version}.deb"
        where = ("--out", out, "--wheelhouse", self.wheels(target))
        what = ("--key", self.key_file, "--version", version)
        ember("convert", self.folder / "model", "--to", "raspberrypi", *where, *what)
        return out


def ember(*words: object) -> str:
    """A command of Emberfleet on this machine."""
    command = [sys.executable, "-m", "emberfleet.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}"
    return done.stdout


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """`emberfleet server run` on a free port of loopback, for one round; gives the address."""
    log = folder.parent / f"{folder.name}.log"
    command = [sys.executable, "-m", "emberfleet.cli", "server", "run", str(folder), "--port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--rounds", "1"], stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while "running on http" not in (text := log.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < end, text
            time.sleep(0.1)
        yield text.split("running on ")[1].split()[0]
    finally:
        process.terminate()
        process.wait(20)
