"""The server's own certificate: made once, for its owner's eyes, and served where others can connect."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from emberfleet.core.errors import ConfigError
from emberfleet.server.tls import make_certificate, own_certificate, pin_of_file, speaks_tls

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def test_a_servers_own_certificate_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    certificate = own_certificate(tmp_path)
    first = certificate.read_bytes()
    assert own_certificate(tmp_path, ["elsewhere"]) == certificate
    assert certificate.read_bytes() == first
    assert certificate.stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").mkdir()
    assert pin_of_file(certificate) != pin_of_file(own_certificate(tmp_path / "other"))


def test_a_certificate_names_the_hosts_it_is_for_and_lasts_ten_years() -> None:
    made = make_certificate(["kitchen.local", "192.168.1.5", "::1", "0.0.0.0", "not a name"], NOW)
    certificate = x509.load_pem_x509_certificate(made[made.index(b"-----BEGIN CERTIFICATE") :])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["kitchen.local"]
    assert [str(found) for found in names.get_values_for_type(x509.IPAddress)] == ["192.168.1.5", "::1"]
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc > NOW + datetime.timedelta(days=3650)


@pytest.mark.parametrize(
    ("host", "wish", "expected"),
    [
        ("127.0.0.1", None, False),
        ("::1", None, False),
        ("localhost", None, False),
        ("0.0.0.0", None, True),
        ("192.168.1.5", None, True),
        ("server.example", None, True),
        ("0.0.0.0", False, False),
        ("127.0.0.1", True, True),
    ],
)
def test_https_is_served_wherever_others_can_connect_unless_wished_otherwise(
    host: str, wish: bool | None, expected: bool
) -> None:
    assert speaks_tls(host, wish) is expected


def test_a_file_without_a_certificate_has_no_pin(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "none.pem").write_bytes(b"hello")
    for name in ("empty.pem", "none.pem"):
        with pytest.raises(ConfigError, match="holds no certificate"):
            pin_of_file(tmp_path / name)
