"""Enrolment tokens: read as they are written, and nothing else."""

from __future__ import annotations

import contextlib
import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError
from emberfleet.core.tokens import Token, check_pin, pin_of
from emberfleet.server.tls import make_certificate

PIN = "A" * 43
NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize("token", [Token("s"), Token("s", "f"), Token("s", "f", PIN), Token("s", "", PIN)])
def test_a_token_is_read_as_it_was_written(token: Token) -> None:
    assert Token.parse(token.text) == token
    assert Token.parse(f" {token.text}\n") == token


@given(st.text(max_size=300))
def test_any_text_is_a_token_or_a_format_error(text: str) -> None:
    with contextlib.suppress(FormatError):
        assert Token.parse(text).secret


@pytest.mark.parametrize("text", ["", ".f", "s.f.p", "s.f." + PIN + ".x", "s" * 300])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Token.parse(text)


def test_a_tokens_secret_is_not_shown_in_a_log() -> None:
    assert "very-secret" not in repr(Token("very-secret", "f", PIN))


def test_a_pin_stays_when_the_certificate_is_renewed_and_changes_with_the_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])

    def certificate(serial: int) -> bytes:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        dated = builder.serial_number(serial).not_valid_before(NOW)
        signed = dated.not_valid_after(NOW + datetime.timedelta(days=serial)).sign(key, hashes.SHA256())
        return ssl.PEM_cert_to_DER_cert(signed.public_bytes(Encoding.PEM).decode())

    assert pin_of(certificate(1)) == pin_of(certificate(2)) == check_pin(pin_of(certificate(3)))
    other = make_certificate(["localhost"], NOW).decode()
    assert pin_of(ssl.PEM_cert_to_DER_cert(other[other.index("-----BEGIN CERTIFICATE") :])) != pin_of(
        certificate(1)
    )


def test_what_is_no_certificate_has_no_pin() -> None:
    for data in (b"", b"not a certificate", bytes(1000)):
        with pytest.raises(FormatError):
            pin_of(data)
