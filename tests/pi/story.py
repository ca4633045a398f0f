"""What one emulated Raspberry Pi is put through, and how its answers compare with this machine's.

The wheel and the Debian package are installed without a network; the Pi predicts and retrains in every way
that it has, takes part in a round of a server on this machine's loopback, is upgraded, cleared and purged.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from emberfleet.converters.raspberrypi.package import PACKAGE
from emberfleet.core.arrays import Array
from emberfleet.core.tensors import decode_tensors
from tests.pi.desk import LEARNT, Desk, ember, serving
from tests.pi.on_device import main as answer_here
from tests.pi.userland import STATUS, Userland, installed_with, target_of

MODEL = "/usr/share/emberfleet/model.ember"
KEY = "/usr/share/emberfleet/trusted.key"
HOME = "/usr/lib/emberfleet"
STATE = "/var/lib/emberfleet"
DEVICE = f"{STATE}/device"
ROUND = (
    "mode=sealed",
    "cohort=1",
    "minimum=1",
    "training.epochs=2",
    "training.batch=10",
    "training.rate=0.02",
)
MOST_TURNS = 6
STEP_TOLERANCE = {"litert": 1.001, "opencl": 0.0, "numpy": 0.0}
"""Most int8 steps from the numpy of this machine: XNNPACK rounds otherwise, the rest may not differ."""
WEIGHT_TOLERANCE = 1e-3
"""Most difference of a retrained weight, as a share of the largest: floating-point sums in another order."""
BESIDE = ("python3", "python3-venv", "systemd-standalone-sysusers", "init-system-helpers")
OF_DEBIAN = ("ca-certificates", "python3-pil")
OF_DEBIAN_32_BIT = ("python3-numpy", "python3-cryptography")
OPENCL_OF_DEBIAN = ("python3-pyopencl", "ocl-icd-libopencl1", "pocl-opencl-icd")
"""python3-pyopencl counts where it is installed: on 32 bit."""
SPOIL = """
with open("{}", "r+b") as file:
    file.seek(-5000, 2)
    found = file.read(1)
    file.seek(-1, 1)
    file.write(bytes([found[0] ^ 1]))
"""


def tell(desk: Desk, root: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything on one emulated Pi; gives its row of the table."""
    target = target_of(root)
    assert target is not None

    def step(text: str) -> None:
        say(f"{time.strftime('%H:%M:%S')} {target}: {text}")

    package = desk.package(target, 1)
    shown = {"/mnt/desk": desk.shown, "/mnt/wheels": desk.wheels(target)}
    pi = Userland.fresh(root, desk.folder / "layers" / target, shown)
    step("the wheel in an environment of its own")
    check_wheel(desk, pi)
    step("the Debian package")
    install(pi, package)
    sizes = sizes_of(pi)
    check_tampering(pi)
    step("predictions and retraining")
    facts, agreement = answers(desk, pi)
    step("a round")
    round_ = take_part(desk, pi)
    step("upgrade, removal, purge")
    check_upgrade(desk, pi)
    check_removal(pi)
    return {
        "target": target,
        "artefact": package.name,
        "bytes": package.stat().st_size,
        "installed_mib": sizes,
        **facts,
        "ran": [
            "wheel",
            *agreement["logits"],
            *(f"retraining on {name}" for name in facts["retrained"]),
            "round",
            "upgrade",
            "purge",
        ],
        "agreement": agreement,
        "round": round_,
    }


def install(pi: Userland, package: Path) -> None:
    """As a user does, but for the network."""
    pi.run("apt-get", "install", "--yes", "--no-install-recommends", f"/mnt/desk/{package.name}")


def check_wheel(desk: Desk, pi: Userland) -> None:
    """The wheel, in an environment of its own: what the doctor tries of the base must work."""
    pi.run("python3", "-m", "venv", "--system-site-packages", "/opt/wheel")
    index = ("--no-index", "--find-links", "/mnt/wheels")
    pi.run("/opt/wheel/bin/pip", "install", "--quiet", *index, f"/mnt/desk/{desk.wheel.name}")
    pi.run("/opt/wheel/bin/emberfleet", "--version")
    for probe in ("numpy", "signatures", "hpke"):
        said = pi.run("/opt/wheel/bin/python", "-m", "emberfleet.runtime.probes", probe)
        assert "failure" not in json.loads(said.splitlines()[-1]), said
    pi.run("rm", "-r", "/opt/wheel")


def sizes_of(pi: Userland) -> dict[str, float]:
    """MiB of everything that the installation brought."""
    status = pi.root / STATUS if not pi.changed(STATUS).exists() else pi.changed(STATUS)
    wanted = [*OF_DEBIAN, *(OF_DEBIAN_32_BIT if pi.target.startswith("armhf") else ())]
    required = installed_with(status, wanted, BESIDE)
    opencl = installed_with(status, OPENCL_OF_DEBIAN, [*BESIDE, *wanted])
    found = {
        "program": pi.mib(f"{HOME}/python"),
        "model": pi.changed(MODEL).stat().st_size / 2**20,
        "environment": pi.mib(f"{HOME}/venv"),
        "debian_packages": sum(required.values()) / 1024,
    }
    assert pi.mib(f"{HOME}/wheelhouse") < 0.1, "the wheels stay behind"
    found["all_but_opencl"] = sum(found.values())
    found["opencl"] = sum(opencl.values()) / 1024
    return {name: round(size, 1) for name, size in found.items()}


def check_tampering(pi: Userland) -> None:
    """A changed bundle does not run."""
    pi.run("cp", MODEL, "/tmp/model.ember")
    pi.run("python3", "-c", SPOIL.format(MODEL))
    said = pi.run("emberfleet", "inspect", MODEL, "--trust", KEY, fails=True)
    assert "Traceback" not in said, said
    pi.run("mv", "/tmp/model.ember", MODEL)
    pi.run("emberfleet", "inspect", MODEL, "--trust", KEY)


def answers(desk: Desk, pi: Userland) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the Pi says of itself, and how far its answers are from this machine's."""
    pi.run("install", "-d", "-o", "emberfleet", "/mnt/own")
    program = (f"{HOME}/venv/bin/python", "/mnt/desk/on_device.py", MODEL, KEY)
    files = ("/mnt/desk/learn.safetensors", "/mnt/desk/test.safetensors", "/mnt/own/answers")
    caches = {"XDG_CACHE_HOME": "/mnt/own/cache", "POCL_CACHE_DIR": "/mnt/own/cache/pocl"}
    pi.as_device(*program, *files, environment=caches)
    there, here = pi.changed("/mnt/own/answers"), desk.folder / "here" / pi.target
    learn, test = desk.shown / "learn.safetensors", desk.shown / "test.safetensors"
    answer_here(pi.changed(MODEL), desk.key, learn, test, here)
    facts: dict[str, Any] = json.loads((there / "facts.json").read_text())
    return facts, compare(there, here, facts.pop("step"))


def compare(there: Path, here: Path, step: float) -> dict[str, Any]:
    """How far logits and retrained weights are apart.

    Raises:
        AssertionError: by more than `STEP_TOLERANCE` or `WEIGHT_TOLERANCE`.
    """
    theirs, ours = (decode_tensors((folder / "answers.safetensors").read_bytes()) for folder in (there, here))
    found: dict[str, Any] = {"logits": {}, "weights": {}}
    for backend, limit in STEP_TOLERANCE.items():
        if f"logits/{backend}" not in theirs:
            continue
        steps = float(np.abs(theirs[f"logits/{backend}"] - ours["logits/numpy"]).max()) / step
        found["logits"][backend] = round(steps, 3)
        assert steps <= limit, f"{backend}: {steps} steps from this machine's numpy, expected {limit} at most"
        if backend != "litert":
            found["weights"][backend] = weight_difference(theirs, ours, backend)
            assert found["weights"][backend] <= WEIGHT_TOLERANCE, f"{backend}: retrained weights: {found}"
    return found


def weight_difference(theirs: Mapping[str, Array], ours: Mapping[str, Array], backend: str) -> float:
    """The largest difference of a weight retrained there and here, as a share of the largest weight."""
    names = [name.partition("/")[2] for name in theirs if name.startswith(f"{backend}/")]
    assert names, f"nothing retrained on {backend}"
    differences = [np.abs(theirs[f"{backend}/{name}"] - ours[f"numpy/{name}"]).max() for name in names]
    return float(max(differences) / max(np.abs(ours[f"numpy/{name}"]).max() for name in names))


def take_part(desk: Desk, pi: Userland) -> dict[str, Any]:
    """Enrol as the service does, take part in one round, and fetch the model that came of it."""
    folder = desk.folder / "servers" / pi.target
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(exist_ok=True)
    settings = [word for text in ROUND for word in ("--set", text)]
    ember("server", "init", folder, "--bundle", pi.changed(MODEL), "--trust", desk.key.text, *settings)
    (token,) = json.loads(ember("server", "token", folder, "--json"))["tokens"]
    service = f"{HOME}/take-part"
    with serving(folder) as address:
        environment = {
            "EMBERFLEET_SERVER": address,
            "EMBERFLEET_NAME": pi.target,
            "EMBERFLEET_OPTIONS": "--once --backend numpy --allow-sealed",
            "CREDENTIALS_DIRECTORY": "/mnt/own/credentials",
            "STATE_DIRECTORY": STATE,
        }
        assert "not enrolled" in pi.as_device(service, "ready", fails=True, environment=environment)
        pi.run("sh", "-c", f"umask 077 && echo {token} > /etc/emberfleet/token")
        # What systemd does for LoadCredential=: a copy that the service alone can read.
        pi.run("install", "-d", "-m", "500", "-o", "emberfleet", "/mnt/own/credentials")
        pi.run(
            "install", "-m", "400", "-o", "emberfleet", "/etc/emberfleet/token", "/mnt/own/credentials/token"
        )
        pi.as_device(service, "ready", environment=environment)
        pi.as_device("emberfleet", "device", "add-samples", DEVICE, "/mnt/desk/learn.safetensors")
        for _ in range(MOST_TURNS):
            pi.as_device(service, environment=environment)
            found = httpx.get(f"{address}/v1/status").json()
            if any(row["phase"] == "done" for row in found["rounds"]):
                break
        pi.as_device(service, environment=environment)
    (row,) = found["rounds"]
    assert (row["phase"], row["accepted"]) == ("done", 1), row
    device = json.loads(pi.as_device("emberfleet", "device", "status", DEVICE, "--json"))
    assert (device["model_version"], device["samples"]) == (2, LEARNT), device
    modes = pi.run(
        "stat", "-c", "%a %U", f"{DEVICE}/device.key", f"{DEVICE}/device.json", f"{DEVICE}/samples"
    )
    assert modes.split() == ["600", "emberfleet", "600", "emberfleet", "700", "emberfleet"], modes
    return {"phase": row["phase"], "accepted": row["accepted"], "model": device["model_version"]}


def check_upgrade(desk: Desk, pi: Userland) -> None:
    """A newer package brings a newer model; key, samples and settings stay."""
    pi.run("sh", "-c", "echo EMBERFLEET_SERVER=http://127.0.0.1:9 > /etc/emberfleet/device.conf")
    owned = "device.key device.json samples/* /etc/emberfleet/device.conf"
    before = pi.run("sh", "-c", f"cd {DEVICE} && sha256sum {owned}")
    install(pi, desk.package(pi.target, 2))
    assert pi.run("sh", "-c", f"cd {DEVICE} && sha256sum {owned}") == before
    found = json.loads(pi.run("emberfleet", "inspect", MODEL, "--trust", KEY, "--json"))
    assert found["model_version"] == 2, found


def check_removal(pi: Userland) -> None:
    """Removing leaves what the device owns; purging leaves nothing."""
    pi.run("apt-get", "remove", "--yes", PACKAGE)
    left = pi.run("sh", "-c", f"ls -d {DEVICE}/device.key {DEVICE}/samples/* /etc/emberfleet/device.conf")
    assert len(left.split()) == 3, left
    pi.run("test", "-e", HOME, fails=True)
    pi.run("dpkg", "--purge", PACKAGE)
    for path in (STATE, "/etc/emberfleet", HOME, "/usr/bin/emberfleet"):
        pi.run("test", "-e", path, fails=True)
