from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from emberfleet.converters.bundle import build_bundle
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.signing import SigningKey
from emberfleet.train.calibration import calibrate
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.models import small_squeezenet
from emberfleet.train.report.pictures import encode_png
from emberfleet.train.trained import TrainedModel
from tests.examples.programs import EXAMPLES, ROOT

FOLDER = EXAMPLES / "deploy_to_raspberry_pi"
HOST = "pi@raspberrypi.local"
UNIT = FOLDER / "emberfleet-watch.service"

# Each runs in the place of the command of its name; $PI_HOME is the home folder at the other end.
STAND_INS = {
    "ssh": 'while [ "${1#-}" != "$1" ]; do shift; done; shift; cd "$PI_HOME" && exec bash -c "$*"',
    "scp": 'shift; for last; do :; done; cp "${@:1:$#-1}" "$PI_HOME/${last#*:}"',
    "sudo": 'echo "sudo $*" >> "$PI_HOME/../log"; exec "$@"',
    "id": "exit 1",
    "useradd": 'echo "useradd $*" >> "$PI_HOME/../log"',
    "systemctl": 'echo "systemctl $*" >> "$PI_HOME/../log"',
    "install": 'args=(); for word; do [ "$word" = -g ] || [ "$word" = emberfleet ] || args+=("$word"); done; '
    'exec /usr/bin/install "${args[@]}"',
    "sleep": "exit 0",
    "python3": f'exec "{sys.executable}" "$@"',
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel, built here without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=300)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Path:
    """A signed bundle of a network that has learnt nothing."""
    graph, preprocessing = small_squeezenet(width=0.25, classes=2), Preprocessing(28, 28, 1)
    tensors = initial_tensors(graph, 0, preprocessing)
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1)).astype(np.uint8)
    tensors = {**tensors, **calibrate(graph, tensors, preprocessing.apply(images))}
    path = tmp_path_factory.mktemp("bundle") / "my model.ember"
    build_bundle(TrainedModel(graph, tensors, preprocessing, ("no", "yes")), 7, key, path)
    return path


@pytest.fixture
def pi(tmp_path: Path) -> dict[str, str]:
    """The environment in which ssh and what it would run on a Pi are stand-ins that work in a folder."""
    tools, home = tmp_path / "tools", tmp_path / "home"
    tools.mkdir()
    home.mkdir()
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PI_HOME": str(home),
        "DESTDIR": str(tmp_path / "root"),
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        # What pip would have fetched: the libraries of this environment, found behind the wheel itself.
        "PYTHONPATH": sysconfig.get_path("purelib"),
    }


def deploy(*words: str | Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(FOLDER / "deploy.sh"), *map(str, words)],
        env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_script_is_sound_bash() -> None:
    subprocess.run(["bash", "-n", str(FOLDER / "deploy.sh")], check=True)


def test_a_dry_run_prints_all_and_runs_nothing(pi: dict[str, str], bundle: Path, key: SigningKey) -> None:
    wheel = bundle.parent / "emberfleet-0-py3-none-any.whl"
    wheel.touch()
    done = deploy("--dry-run", HOST, bundle, key.verify_key.text, wheel, env=pi)
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert len(commands) > 12
    assert all(re.match(r"\+ (ssh -t pi@raspberrypi\.local|scp -q) ", line) for line in commands)
    assert "systemctl enable" in done.stdout
    assert list(Path(pi["PI_HOME"]).iterdir()) == []


def test_the_model_is_installed_and_says_what_it_sees(
    pi: dict[str, str], bundle: Path, key: SigningKey, wheel: Path
) -> None:
    pytest.importorskip("PIL")
    done = deploy(HOST, bundle, key.verify_key.text, wheel, env=pi)
    assert done.returncode == 0, done.stdout + done.stderr
    root, home = Path(pi["DESTDIR"]), Path(pi["PI_HOME"])
    assert (root / "var/lib/emberfleet/model.ember").read_bytes() == bundle.read_bytes()
    assert (root / "etc/systemd/system/emberfleet-watch.service").read_text() == UNIT.read_text()
    assert list(home.iterdir()) == [], "nothing is left in the home folder"
    log = (home.parent / "log").read_text()
    assert "useradd --system --no-create-home --shell /usr/sbin/nologin emberfleet" in log
    assert "systemctl restart emberfleet-watch" in log

    pictures = root / "var/lib/emberfleet/pictures"
    (pictures / "a.png").write_bytes(encode_png(np.full((30, 40), 200, np.uint8)))
    (pictures / "b.jpg").write_bytes(b"not a picture")
    (start,) = re.findall(r"^ExecStart=(.+)$", UNIT.read_text(), re.MULTILINE)
    command = [re.sub(r"^/", f"{root}/", word) for word in start.split()]
    said = subprocess.run([*command, "--once"], env=pi, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    first, *lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert first["model"] == 7
    found = {line["picture"]: line for line in lines}
    assert found["a.png"]["label"] in ("no", "yes")
    assert "b.jpg" in found["b.jpg"]["error"]
    where = subprocess.run(
        [command[0], "-c", "import emberfleet.core.bundle as b; print(b.__file__)"],
        env=pi, cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(root)), "the program that ran is the wheel's"

    forged = deploy(HOST, bundle, SigningKey.generate().verify_key.text, wheel, env=pi)
    assert forged.returncode != 0
    assert "the signature does not verify" in forged.stdout + forged.stderr
    assert (root / "var/lib/emberfleet/trusted.key").read_text().strip() == key.verify_key.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-oProxyCommand=x", "m", "k", "w.whl"), "HOST is '-oProxyCommand=x'"),
        ((HOST, "missing.ember", "k", "w.whl"), "no such file: missing.ember"),
        ((HOST, str(UNIT), "key; rm -r /", str(FOLDER / "watch.py")), "expected a file that ends in .whl"),
        ((HOST,), "deploy.sh [--dry-run] HOST BUNDLE PUBLIC_KEY WHEEL"),
    ],
)
def test_wrong_arguments_end_with_a_sentence(pi: dict[str, str], words: tuple[str, ...], said: str) -> None:
    done = deploy(*words, env=pi)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_key_cannot_carry_a_command(pi: dict[str, str], bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "w.whl").touch()
    done = deploy(HOST, bundle, "abc;touch${IFS}x", tmp_path / "w.whl", env=pi)
    assert done.returncode == 2
    assert "which is no key" in done.stderr


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/emberfleet/bin/python", sys.executable))
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
