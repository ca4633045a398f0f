"""The certificate that a server makes for itself, so that a fleet has TLS without buying anything.

One file of mode 600 holds the private key and the certificate: it is there whole or not at all.
Devices know the certificate by its pin (`core/tokens.py`), so nobody has to trust who signed it, which is
the server itself.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from emberfleet.core.errors import ConfigError, FormatError
from emberfleet.core.files import read_limited, write_private
from emberfleet.core.tokens import pin_of

FILE: Final = "tls.pem"
LIFETIME: Final = datetime.timedelta(days=3653)
_MAX_BYTES: Final = 1 << 20
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


def own_certificate(folder: Path, hosts: Iterable[str] = ()) -> Path:
    """The server's own certificate with its key (PEM), made where there is none yet.

    Args:
        folder: The server's.
        hosts: Names and addresses that a new certificate is for, beside this machine's own name.

    Raises:
        StorageError: It cannot be written.
    """
    path = folder / FILE
    if not path.exists():
        names = [*hosts, socket.gethostname(), *_LOCAL]
        write_private(path, make_certificate(names, datetime.datetime.now(datetime.UTC)))
    return path


def make_certificate(hosts: Iterable[str], now: datetime.datetime) -> bytes:
    """A new P-256 key and a certificate signed by it, in PEM.

    Args:
        hosts: Names and addresses for the certificate; those that are none are left out.
        now: It is good from the day before, for ten years.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Emberfleet server")])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(hosts)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def pin_of_file(path: Path) -> str:
    """The pin of the first certificate in a PEM file: the server's own, before those that vouch for it.

    Raises:
        ConfigError: There is no certificate in it.
        StorageError: It cannot be read.
    """
    text = read_limited(path, _MAX_BYTES).decode("ascii", "replace")
    begin, end = text.find("-----BEGIN CERTIFICATE-----"), text.find("-----END CERTIFICATE-----")
    try:
        return pin_of(ssl.PEM_cert_to_DER_cert(text[begin : end + len("-----END CERTIFICATE-----")]))
    except (ValueError, FormatError) as error:
        raise ConfigError(f"{path} holds no certificate in PEM form") from error


def speaks_tls(host: str, wish: bool | None) -> bool:
    """Whether to serve https: as wished; without a wish, unless only this machine can connect."""
    if wish is not None:
        return wish
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _alternative_names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if host.isascii() and host.replace("-", "").replace(".", "").isalnum():
                found.append(x509.DNSName(host))
        else:
            if not address.is_unspecified:
                found.append(x509.IPAddress(address))
    return found
