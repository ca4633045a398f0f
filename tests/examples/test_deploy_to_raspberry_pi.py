from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emberfleet.converters.bundle import build_bundle
from emberfleet.converters.raspberrypi.package import build_package
from emberfleet.core.signing import SigningKey
from emberfleet.train.report.pictures import encode_png
from tests.converters.raspberrypi.machine import Machine
from tests.examples.programs import EXAMPLES
from tests.runtime.stripes import CLASSES, trained

FOLDER = EXAMPLES / "deploy_to_raspberry_pi"
HOST = "pi@raspberrypi.local"
UNIT = FOLDER / "emberfleet-watch.service"

# Each runs in the place of the command of its name; $PI_HOME is the home folder at the other end.
STAND_INS = {
    "ssh": 'while [ "${1#-}" != "$1" ]; do shift; done; shift; cd "$PI_HOME" && exec bash -c "$*"',
    "scp": 'shift; for last; do :; done; cp "${@:1:$#-1}" "$PI_HOME/${last#*:}"',
    "sudo": 'echo "sudo $*" >> "$PI_HOME/../log"; exec "$@"',
    "apt-get": 'exec $DPKG --install "${@:$#}"',
    "systemctl": 'echo "systemctl $*" >> "$PI_HOME/../log"',
    "install": 'args=(); for word; do [ "$word" = -g ] || [ "$word" = emberfleet ] || args+=("$word"); done; '
    'exec /usr/bin/install "${args[@]}"',
    "sleep": "exit 0",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as a Debian package, under a name with a space."""
    key = SigningKey.generate()
    path = tmp_path_factory.mktemp("package") / "my model.deb"
    path.write_bytes(build_package(build_bundle(trained(), 7, key), key.verify_key))
    return path


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine.make(tmp_path)


@pytest.fixture
def pi(machine: Machine, tmp_path: Path) -> dict[str, str]:
    """The environment in which ssh and what it would run on a Pi are stand-ins that work in a folder."""
    home = tmp_path / "home"
    home.mkdir()
    for name, body in STAND_INS.items():
        (machine.tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (machine.tools / name).chmod(0o755)
    dpkg = " ".join(machine.command)
    return {**machine.environment, "PI_HOME": str(home), "DESTDIR": str(machine.root), "DPKG": dpkg}


def deploy(*words: str | Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(FOLDER / "deploy.sh"), *map(str, words)],
        env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_script_is_sound_bash() -> None:
    subprocess.run(["bash", "-n", str(FOLDER / "deploy.sh")], check=True)


def test_a_dry_run_prints_all_and_runs_nothing(pi: dict[str, str], package: Path) -> None:
    done = deploy("--dry-run", HOST, package, env=pi)
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert len(commands) > 7
    assert all(re.match(r"\+ (ssh -t pi@raspberrypi\.local|scp -q) ", line) for line in commands)
    assert "systemctl enable" in done.stdout
    assert list(Path(pi["PI_HOME"]).iterdir()) == []


def test_the_model_is_installed_and_says_what_it_sees(
    pi: dict[str, str], machine: Machine, package: Path
) -> None:
    pytest.importorskip("PIL")
    done = deploy(HOST, package, env=pi)
    assert done.returncode == 0, done.stdout + done.stderr
    home = Path(pi["PI_HOME"])
    assert machine.path("/etc/systemd/system/emberfleet-watch.service").read_text() == UNIT.read_text()
    assert list(home.iterdir()) == [], "nothing is left in the home folder"
    assert "systemctl restart emberfleet-watch" in (home.parent / "log").read_text()

    pictures = machine.path("/var/lib/emberfleet/pictures")
    (pictures / "a.png").write_bytes(encode_png(np.full((30, 40), 200, np.uint8)))
    (pictures / "b.jpg").write_bytes(b"not a picture")
    (start,) = re.findall(r"^ExecStart=(.+)$", UNIT.read_text(), re.MULTILINE)
    command = [re.sub(r"^/", f"{machine.root}/", word) for word in start.split()]
    said = subprocess.run([*command, "--once"], env=pi, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    first, *lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert first["model"] == 7
    found = {line["picture"]: line for line in lines}
    assert found["a.png"]["label"] in CLASSES
    assert "b.jpg" in found["b.jpg"]["error"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-oProxyCommand=x", "m.deb"), "HOST is '-oProxyCommand=x'"),
        ((HOST, "missing.deb"), "no such file: missing.deb"),
        ((HOST, str(FOLDER / "watch.py")), "expected a file that ends in .deb"),
        ((HOST,), "deploy.sh [--dry-run] HOST PACKAGE"),
    ],
)
def test_wrong_arguments_end_with_a_sentence(words: tuple[str, ...], said: str) -> None:
    done = deploy(*words, env=dict(os.environ))
    assert done.returncode == 2
    assert said in done.stderr


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/lib/emberfleet/venv/bin/python", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    own = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line]
    assert own == [], "complaints about other units of this machine do not count"


def test_the_service_is_shut_in() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert settings["User"] == "emberfleet"
    for name in ("NoNewPrivileges", "PrivateNetwork", "PrivateDevices", "PrivateTmp", "ProtectHome"):
        assert settings[name] == "yes", name
    assert settings["ProtectSystem"] == "strict"
    assert settings["CapabilityBoundingSet"] == ""
