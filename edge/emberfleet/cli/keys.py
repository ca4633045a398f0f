"""The keys a user signs and trusts with: a developer key in the settings folder, made when first needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emberfleet.core.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from emberfleet.core.signing import SigningKey, VerifyKey

KEY_FILE = "developer.pem"

KeyOption = Annotated[
    Path | None,
    typer.Option("--key", help="Signing key (PEM); your developer key, made when missing, if left out."),
]
TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        help="Public key that may have signed: its text, a file with it, or a signing key's PEM. May be "
        "given several times; your developer key if left out.",
    ),
]


def developer_key_path() -> Path:
    """Where the developer key lies: in the user's settings folder."""
    return Path(typer.get_app_dir("emberfleet")) / KEY_FILE


def signing_key(path: Path | None) -> SigningKey:
    """The key at `path`, or the developer key; makes the latter, readable by its owner alone, and says so."""
    from emberfleet.core.signing import SigningKey

    if path is not None:
        return SigningKey.load(path)
    target = developer_key_path()
    if target.exists():
        return SigningKey.load(target)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = SigningKey.generate()
    key.save(target)
    typer.echo(f"made a developer key, readable by you alone: {target}", err=True)
    typer.echo(f"devices that shall trust it need its public key: {key.verify_key.text}", err=True)
    return key


def trusted_keys(given: list[str] | None) -> list[VerifyKey]:
    """The keys named on the command line, else the developer key's public half.

    Raises:
        ConfigError: none given and no developer key, or text that is no key.
    """
    from emberfleet.core.signing import SigningKey

    if given:
        return [_verify_key(text) for text in given]
    path = developer_key_path()
    if not path.exists():
        raise ConfigError("no key to trust: name the signer's public key with --trust KEY")
    return [SigningKey.load(path).verify_key]


def _verify_key(text: str) -> VerifyKey:
    from emberfleet.core.files import read_limited
    from emberfleet.core.signing import MAX_KEY_FILE_BYTES, SigningKey, VerifyKey

    path = Path(text)
    try:
        if not path.is_file():
            return VerifyKey.from_text(text)
        data = read_limited(path, MAX_KEY_FILE_BYTES)
        if b"PRIVATE KEY" in data:
            return SigningKey.from_pem(data).verify_key
        return VerifyKey.from_text(data.decode("ascii", "replace"))
    except FormatError as error:
        raise ConfigError(f"--trust {text}: {error}") from error
