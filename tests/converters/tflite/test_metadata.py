"""What metadata is written, read by Google's own reader where there is one; the golden file keeps the bytes.

EMBERFLEET_TFLITE_RUNTIME_PYTHON names the Python of an environment from requirements-older-runtime.txt
beside this file, which has tflite-support.
"""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from emberfleet.converters.tflite.float_writer import write_tflite_float
from emberfleet.converters.tflite.int8_writer import write_tflite_int8
from emberfleet.converters.tflite.metadata import ModelCard
from emberfleet.converters.tflite.metadata_reader import TfliteMetadata
from emberfleet.converters.tflite.reader import summarize_tflite
from emberfleet.core.errors import ConversionError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, GlobalAveragePool, Input, Softmax
from emberfleet.core.preprocessing import Preprocessing
from tests.converters.plain_int8 import run_plain
from tests.converters.tflite.interpreter import run_tflite
from tests.converters.tflite.test_int8_writer import calibrated, random_images
from tests.core.networks import mobile_network, random_tensors
from tests.golden.make_tflite import CARD

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "mobile_int8.tflite"
OTHER_PYTHON = "EMBERFLEET_TFLITE_RUNTIME_PYTHON"
READ_ELSEWHERE = """
import json, sys
from tflite_support import metadata
from tensorflow_lite_support.metadata.cc.python import _pywrap_metadata_version as version
shown = metadata.MetadataDisplayer.with_model_file(sys.argv[1])
buffer = shown.get_metadata_buffer()
populator = metadata.MetadataPopulator.with_model_buffer(open(sys.argv[1], "rb").read())
populator.load_metadata_buffer(bytearray(buffer))
print(json.dumps({
    "metadata": json.loads(shown.get_metadata_json()),
    "files": shown.get_packed_associated_file_list(),
    "recorded": populator.get_recorded_associated_file_list(),
    "labels": shown.get_associated_file_buffer("labels.txt").decode(),
    "needs": version.GetMinimumMetadataParserVersion(bytes(buffer)),
}))
"""
CLASSIFY_ELSEWHERE = """
import json, sys, numpy
from tflite_support.task import vision
classifier = vision.ImageClassifier.create_from_file(sys.argv[1])
image = vision.TensorImage.create_from_array(numpy.load(sys.argv[2]))
found = classifier.classify(image).classifications[0].categories
print(json.dumps([[entry.category_name, entry.score] for entry in found]))
"""


def elsewhere(program: str, *arguments: Path) -> object:
    """What a program prints as JSON under the Python that has tflite-support."""
    python = os.environ.get(OTHER_PYTHON)
    if not python:
        pytest.skip(f"{OTHER_PYTHON} does not name a Python that has tflite-support")
    done = subprocess.run([python, "-c", program, *map(str, arguments)], capture_output=True, check=True)
    return json.loads(done.stdout)


def stated(data: bytes) -> TfliteMetadata:
    found = summarize_tflite(data).metadata
    assert found is not None
    return found


def test_our_reader_gives_back_what_the_card_said() -> None:
    assert stated(GOLDEN.read_bytes()) == TfliteMetadata(
        name=CARD.name,
        description=CARD.description,
        version=CARD.version,
        author=CARD.author,
        licence=CARD.licence,
        min_parser_version="1.0.0",
        mean=(127.5, 63.75, 0.0),
        std=(127.5, 255.0, 63.75),
        files=("labels.txt",),
        labels=CARD.labels,
    )


def test_google_s_reader_gives_back_what_the_card_said() -> None:
    found = elsewhere(READ_ELSEWHERE, GOLDEN)
    assert isinstance(found, dict)
    assert found["files"] == found["recorded"] == ["labels.txt"]
    assert found["labels"].splitlines() == list(CARD.labels)
    metadata = found["metadata"]
    assert metadata["min_parser_version"] == found["needs"] == "1.0.0"
    for name, value in (("name", "animals"), ("version", "3"), ("author", "A. Maker")):
        assert metadata[name] == value
    assert metadata["license"] == CARD.licence
    assert metadata["description"] == CARD.description
    (image,) = metadata["subgraph_metadata"][0]["input_tensor_metadata"]
    assert image["content"]["content_properties"] == {
        "color_space": "RGB",
        "default_size": {"width": 7, "height": 9},
    }
    assert image["process_units"] == [
        {
            "options_type": "NormalizationOptions",
            "options": {"mean": [127.5, 63.75, 0.0], "std": [127.5, 255.0, 63.75]},
        }
    ]
    (scores,) = metadata["subgraph_metadata"][0]["output_tensor_metadata"]
    assert scores["content"]["content_properties_type"] == "FeatureProperties"
    assert scores["associated_files"][0]["type"] == "TENSOR_AXIS_LABELS"


def test_google_s_image_classifier_runs_a_file_by_its_metadata_alone(tmp_path: Path) -> None:
    graph = Graph(
        (
            Input("input", (), (9, 7, 3)),
            Conv2D("conv", ("input",), 5, (3, 3), (2, 2)),
            GlobalAveragePool("mean", ("conv",)),
            Softmax("softmax", ("mean",)),
        )
    )
    data = write_tflite_float(graph, random_tensors(graph), card=CARD)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    want = run_tflite(data, CARD.preprocessing.apply(pixels[None]), reference=True)[0]
    (tmp_path / "model.tflite").write_bytes(data)
    np.save(tmp_path / "pixels.npy", pixels)
    found = elsewhere(CLASSIFY_ELSEWHERE, tmp_path / "model.tflite", tmp_path / "pixels.npy")
    assert isinstance(found, list)
    assert [name for name, _ in found] == [CARD.labels[place] for place in np.argsort(-want)]
    np.testing.assert_allclose([score for _, score in found], -np.sort(-want), rtol=1e-4)


def test_metadata_changes_no_answer() -> None:
    network = calibrated(mobile_network())
    q = random_images(network, 2)
    found = run_tflite(write_tflite_int8(network, card=CARD), q, reference=True)
    np.testing.assert_array_equal(found, run_plain(network, q))


def test_the_labels_can_be_unzipped_and_lie_behind_the_model() -> None:
    network = calibrated(mobile_network())
    data = write_tflite_int8(network, card=CARD)
    with zipfile.ZipFile(BytesIO(data)) as archive:
        (entry,) = archive.infolist()
        assert archive.read(entry).decode() == "Ameise\nBär\ncat\ndog\nEule\n"
    assert entry.header_offset > len(write_tflite_int8(network))
    assert data == write_tflite_int8(network, card=CARD)


def test_only_a_softmax_gives_probabilities() -> None:
    network = calibrated(mobile_network())
    logits = write_tflite_int8(network, float_io=True, card=CARD)
    probabilities = write_tflite_int8(network, float_io=True, softmax=True, card=CARD)
    assert b"its logit" in logits
    assert b"its probability" in probabilities


def test_a_file_without_a_card_has_no_metadata() -> None:
    assert summarize_tflite(write_tflite_int8(calibrated(mobile_network()))).metadata is None


@pytest.mark.parametrize("label", ["", "two\nlines", "end\r"])
def test_a_label_that_is_not_one_line_is_refused(label: str) -> None:
    with pytest.raises(ConversionError, match="one line"):
        ModelCard(("fine", label), Preprocessing(9, 7, 3))


def test_a_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(ConversionError, match="UTF-8"):
        replace(CARD, author="half \ud800")


def test_a_card_of_another_network_is_refused() -> None:
    network = calibrated(mobile_network())
    for card in (replace(CARD, labels=CARD.labels[1:]), replace(CARD, preprocessing=Preprocessing(7, 9, 3))):
        with pytest.raises(ConversionError, match="the network reads"):
            write_tflite_int8(network, card=card)
