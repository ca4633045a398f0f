"""`emberfleet inspect`: what a bundle or a .tflite holds."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberfleet.cli.keys import TrustOption, developer_key_path, trusted_keys
from emberfleet.cli.output import JsonOption, console, print_json
from emberfleet.core.errors import FormatError, SignatureError

if TYPE_CHECKING:
    from emberfleet.core.manifest import Manifest

SHOWN_LABELS = 12


def inspect(
    file: Annotated[Path, typer.Argument(help="A bundle (.ember) or a .tflite.")],
    trust: TrustOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a bundle or a .tflite holds, and for a bundle whether a key you trust has signed it."""
    from emberfleet.core.bundle import MAX_BUNDLE_BYTES
    from emberfleet.core.files import read_limited

    data = read_limited(file, MAX_BUNDLE_BYTES)
    facts = _tflite_facts(data) if data[4:8] == b"TFL3" else _bundle_facts(data, trust)
    if json:
        print_json({"file": file, **facts})
    else:
        _show(file, facts)


def _tflite_facts(data: bytes) -> dict[str, Any]:
    from emberfleet.converters.tflite.reader import summarize_tflite

    summary = dataclasses.asdict(summarize_tflite(data))
    return {"kind": "tflite", "sha256": hashlib.sha256(data).hexdigest(), **summary}


def _bundle_facts(data: bytes, trust: list[str] | None) -> dict[str, Any]:
    from emberfleet.core.bundle import Bundle

    keys = trusted_keys(trust) if trust or developer_key_path().exists() else []
    try:
        manifest, verified = Bundle.open(data, keys).manifest, True
    except SignatureError:
        manifest, verified = _unverified_manifest(data), False
    return {
        "kind": "bundle",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "verified": verified,
        **manifest.to_json(),
    }


def _unverified_manifest(data: bytes) -> Manifest:
    """What the file says of itself, signed by nobody we trust: to be shown, never to be run."""
    from emberfleet.core.archive import read_archive, read_contents
    from emberfleet.core.manifest import ENVELOPE_NAME, Manifest
    from emberfleet.core.sources import HeldBytes

    source = HeldBytes(data)
    entries = read_archive(source).entries
    try:
        envelope = json_module.loads(read_contents(source, ENVELOPE_NAME, entries[ENVELOPE_NAME]))
        payload = base64.b64decode(envelope["payload"], validate=True)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"bundle: {ENVELOPE_NAME} is missing or is no envelope") from error
    return Manifest.decode(payload)


def _show(file: Path, facts: dict[str, Any]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = _tflite_rows(facts) if facts["kind"] == "tflite" else _bundle_rows(facts)
    for name, value in rows:
        table.add_row(name, escape(value))
    out = console()
    out.print(f"[bold]{escape(str(file))}[/]: {facts['kind']}, {facts['bytes']} bytes", soft_wrap=True)
    out.print(table)


def _tflite_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    def tensor(entry: dict[str, Any]) -> str:
        steps = "" if entry["scale"] is None else f", scale {entry['scale']:.6g}, zero {entry['zero_point']}"
        return f"{entry['name']}: {entry['type']} {list(entry['shape'])}{steps}"

    return [
        ("description", facts["description"]),
        *_metadata_rows(facts["metadata"]),
        ("input", "\n".join(tensor(entry) for entry in facts["inputs"])),
        ("output", "\n".join(tensor(entry) for entry in facts["outputs"])),
        ("operators", ", ".join(f"{count} {name}" for name, count in facts["operators"].items())),
        ("constants", f"{facts['constant_bytes']} bytes in {facts['tensors']} tensors"),
        ("sha256", facts["sha256"]),
    ]


def _metadata_rows(metadata: dict[str, Any] | None) -> list[tuple[str, str]]:
    """TensorFlow Lite Metadata, where the file has any."""
    if metadata is None:
        return [("metadata", "none")]
    texts = ("name", "version", "author", "licence", "description")
    rows = [(f"stated {name}", metadata[name]) for name in texts if metadata[name]]
    if metadata["mean"]:
        mean, std = (", ".join(f"{value:g}" for value in metadata[name]) for name in ("mean", "std"))
        rows.append(("pixels", f"(0 to 255, less {mean}) / {std}"))
    if metadata["labels"]:
        rows.append(("labels", _shown_labels(metadata["labels"])))
    return rows


def _shown_labels(labels: Sequence[str]) -> str:
    return ", ".join(labels[:SHOWN_LABELS]) + (f" ... ({len(labels)})" if len(labels) > SHOWN_LABELS else "")


def _bundle_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    signed = "by a key you trust" if facts["verified"] else "by no key you trust: it will not run"
    return [
        ("model", f"{facts['model_name']}, version {facts['model_version']}, {facts['created']}"),
        ("signed", signed),
        ("input", f"{facts['input']['dtype']} {facts['input']['shape']}"),
        ("output", f"{facts['output']['dtype']} {facts['output']['shape']}"),
        ("labels", _shown_labels(facts["labels"])),
        ("plans", ", ".join(f"{name} ({len(names)} tensors)" for name, names in facts["plans"].items())),
        ("metrics", ", ".join(f"{name} {value:.4g}" for name, value in facts["metrics"].items()) or "none"),
        ("parent", facts.get("parent") or "none"),
        ("sha256", facts["sha256"]),
        ("parts", "\n".join(f"{n}: {p['size_bytes']} bytes" for n, p in facts["parts"].items())),
    ]
