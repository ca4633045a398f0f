"""The Debian package of a bundle: what is in it, and what dpkg makes of it in a folder of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from emberfleet.agent.identity import key_of
from emberfleet.agent.samples import SampleStore
from emberfleet.converters.bundle import build_bundle
from emberfleet.converters.raspberrypi.package import DEPENDS, PACKAGE, build_package, debian_version
from emberfleet.converters.raspberrypi.program import PACKAGES, running_program
from emberfleet.converters.raspberrypi.wheelhouse import Wheel
from emberfleet.core.errors import ConversionError, SignatureError
from emberfleet.core.signing import SigningKey
from tests.converters.raspberrypi.machine import Machine
from tests.converters.raspberrypi.test_deb import unpacked
from tests.runtime.stripes import stripes, trained

KEY = SigningKey.generate()
CREATED = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
FILES = Path(__file__).resolve().parents[3] / "converters/emberfleet/converters/raspberrypi/files"
UNIT = FILES / "emberfleet-device.service"
SCRIPTS = ("build-environment", "emberfleet", "postinst", "postrm", "prerm", "take-part")


def bundle(version: int = 1) -> bytes:
    return build_bundle(trained(), version, KEY, created=CREATED)


@cache
def package(version: int = 1, wheels: tuple[Wheel, ...] = ()) -> bytes:
    return build_package(bundle(version), KEY.verify_key, wheels)


def control(deb: bytes) -> dict[str, str]:
    text = unpacked(deb, "control.tar.xz")["./control"][1].decode()
    return dict(re.findall(r"^([A-Za-z-]+): (.*)$", text, re.MULTILINE))


def test_the_same_bundle_program_and_wheels_are_the_same_bytes() -> None:
    assert build_package(bundle(), KEY.verify_key) == package()
    assert package(2) != package()


def test_the_package_is_for_every_processor_and_asks_for_debians_libraries_on_32_bit() -> None:
    fields = control(package())
    assert (fields["Package"], fields["Architecture"]) == (PACKAGE, "all")
    assert fields["Version"] == f"{running_program().version}+model1"
    for library, how in (("numpy", "Depends"), ("cryptography", "Depends"), ("pyopencl", "Recommends")):
        (found,) = [entry for entry in fields[how].split(", ") if entry.startswith(f"python3-{library}")]
        assert found.endswith(" | python3:arm64 | python3:amd64")
    assert fields["Depends"] == ", ".join(DEPENDS)


def test_the_bundle_lies_in_the_package_beside_its_signers_key() -> None:
    found = unpacked(package(), "data.tar.xz")
    assert found["./usr/share/emberfleet/model.ember"][1] == bundle()
    assert found["./usr/share/emberfleet/trusted.key"][1].decode().strip() == KEY.verify_key.text
    assert found["./usr/bin/emberfleet"][0].mode == 0o755


def test_wheels_are_packed_in() -> None:
    found = unpacked(package(1, (Wheel("a-1-py3-none-any.whl", b"wheel"),)), "data.tar.xz")
    assert found["./usr/lib/emberfleet/wheelhouse/a-1-py3-none-any.whl"][1] == b"wheel"


def test_the_program_is_the_one_that_runs_without_the_server_and_without_caches() -> None:
    program = running_program()
    paths = [file.path for file in program.files]
    assert {path.split("/")[1] for path in paths if path.startswith("emberfleet/")} == set(PACKAGES)
    assert not [path for path in paths if "__pycache__" in path or "raspberrypi" in path]
    assert "emberfleet/engine/opencl/conv2d.cl" in paths
    assert "emberfleet/runtime/probe.tflite" in paths
    names = {re.split(r"[^a-z0-9-]", line)[0] for line in program.requirements}
    assert {"numpy", "cryptography", "httpx"} <= names
    assert not names & {"torch", "pillow", "sqlalchemy"}


def test_a_bundle_of_somebody_else_is_not_packed() -> None:
    with pytest.raises(SignatureError):
        build_package(bundle(), SigningKey.generate().verify_key)


@pytest.mark.parametrize("maintainer", ["nobody", "A <b>", "A <a@b>\nDepends: x", "<a@b.c>"])
def test_a_maintainer_without_an_address_is_refused(maintainer: str) -> None:
    with pytest.raises(ConversionError, match="maintainer is"):
        build_package(bundle(), KEY.verify_key, maintainer=maintainer)


def test_versions_grow_with_the_program_and_with_the_model() -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("dpkg is not installed")
    rising = [("0.1.0", 1), ("0.1.0", 2), ("0.1.0", 10), ("0.2.0.dev3", 1), ("0.2.0rc1", 1), ("0.2.0", 1)]
    for (program, model), (newer, newest) in pairwise(rising):
        older, later = debian_version(program, model), debian_version(newer, newest)
        subprocess.run(["dpkg", "--compare-versions", older, "lt", later], check=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_sound_shell(name: str) -> None:
    subprocess.run(["sh", "-n", str(FILES / name)], check=True)
    if shutil.which("shellcheck") is not None:
        subprocess.run(["shellcheck", str(FILES / name)], check=True)


def test_lintian_has_nothing_to_say(tmp_path: Path) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("lintian is not installed")
    (tmp_path / "x.deb").write_bytes(package())
    done = subprocess.run(["lintian", str(tmp_path / "x.deb")], capture_output=True, text=True)
    assert re.findall(r"^[EW]: .*", done.stdout, re.MULTILINE) == []


def test_the_service_is_shut_in(tmp_path: Path) -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert settings["User"] == "emberfleet"
    for name in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "ProtectKernelModules"):
        assert settings[name] == "yes", name
    assert (settings["ProtectSystem"], settings["StateDirectory"]) == ("strict", "emberfleet")
    assert settings["CapabilityBoundingSet"] == ""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    (tmp_path / "take-part").write_bytes((FILES / "take-part").read_bytes())
    (tmp_path / "take-part").chmod(0o755)
    unit.write_text(UNIT.read_text().replace("/usr/lib/emberfleet/take-part", str(tmp_path / "take-part")))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    own = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line]
    assert own == [], "complaints about other units of this machine do not count"


@pytest.mark.slow
def test_dpkg_installs_upgrades_removes_and_purges_it(tmp_path: Path) -> None:
    machine = Machine.make(tmp_path)
    for version in (1, 2):
        (tmp_path / f"{version}.deb").write_bytes(package(version))
    machine.dpkg("--install", tmp_path / "1.deb")
    assert machine.path("/etc/emberfleet/token").stat().st_mode & 0o777 == 0o600
    assert "emberfleet:" in machine.path("/etc/passwd").read_text()
    where = machine.python("-c", "import emberfleet.core.bundle as b; print(b.__file__)")
    assert where.startswith(str(machine.path("/usr/lib/emberfleet/python"))), (
        "what runs is the package's program"
    )
    trust = ("--trust", machine.path("/usr/share/emberfleet/trusted.key"), "--json")
    inspect = ("-m", "emberfleet.cli", "inspect", machine.path("/usr/share/emberfleet/model.ember"), *trust)
    assert json.loads(machine.python(*inspect))["model_version"] == 1

    device = machine.path("/var/lib/emberfleet/device")
    public = key_of(device).verify_key
    store = SampleStore(device / "samples")
    data = stripes(12)
    store.add(data.images, data.labels)
    settings = machine.path("/etc/emberfleet/device.conf")
    settings.write_text("EMBERFLEET_SERVER=http://127.0.0.1:9\n")

    machine.dpkg("--install", tmp_path / "2.deb")
    assert json.loads(machine.python(*inspect))["model_version"] == 2
    assert key_of(device).verify_key == public
    assert (device / "device.key").stat().st_mode & 0o777 == 0o600
    assert len(store) == 12
    assert settings.read_text() == "EMBERFLEET_SERVER=http://127.0.0.1:9\n"

    machine.dpkg("--remove", PACKAGE)
    assert not machine.path("/usr/lib/emberfleet").exists()
    assert len(store) == 12
    assert key_of(device).verify_key == public
    machine.dpkg("--purge", PACKAGE)
    assert not machine.path("/var/lib/emberfleet").exists()
    assert not machine.path("/etc/emberfleet").exists()


def test_a_damaged_model_is_not_installed(tmp_path: Path) -> None:
    machine = Machine.make(tmp_path)
    deb = tmp_path / "x.deb"
    deb.write_bytes(package())
    machine.dpkg("--unpack", deb)
    model = machine.path("/usr/share/emberfleet/model.ember")
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    said = machine.dpkg("--configure", PACKAGE, code=1)
    assert "model.ember: bundle: " in said
    assert not machine.path("/usr/lib/emberfleet/venv").exists()
    assert not machine.path("/usr/lib/emberfleet/venv.new").exists()
