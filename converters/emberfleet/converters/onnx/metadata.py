"""What our own .onnx files say about pixels and classes, in one text of their metadata.

The key ``emberfleet`` holds a JSON object: ``labels``, the classes in order, and ``preprocessing`` as in a
bundle's manifest. Other programs can read it to prepare images; an import takes it as its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from emberfleet.core.codec import Fields, encode_json
from emberfleet.core.errors import FormatError
from emberfleet.core.manifest import MAX_LABELS
from emberfleet.core.preprocessing import Preprocessing

KEY: Final = "emberfleet"
MAX_BYTES: Final = 4 << 20


def describe(labels: tuple[str, ...], preprocessing: Preprocessing) -> dict[str, str]:
    """The texts for a file."""
    document = {"labels": list(labels), "preprocessing": preprocessing.to_json()}
    return {KEY: encode_json(document).decode()}


def read_description(metadata: Mapping[str, str]) -> tuple[tuple[str, ...], Preprocessing] | None:
    """Labels and preprocessing, where the file was written by us.

    Raises:
        FormatError: there is such a text, and it is malformed.
    """
    if KEY not in metadata:
        return None
    fields = Fields.parse(metadata[KEY].encode(errors="replace"), "onnx metadata", MAX_BYTES)
    labels = fields.items("labels", MAX_LABELS)
    preprocessing = Preprocessing.from_json(fields.nested("preprocessing", "onnx metadata").rest())
    fields.done()
    if not all(isinstance(label, str) for label in labels):
        raise FormatError("onnx metadata: labels are not texts")
    return tuple(labels), preprocessing
