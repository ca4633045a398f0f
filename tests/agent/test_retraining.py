"""What joins the agent to the runtime: measuring a real bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emberfleet.agent.judging import judge
from emberfleet.agent.retraining import evaluate_with
from emberfleet.agent.samples import Samples
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.errors import SignatureError
from emberfleet.core.messages import ModelReport
from emberfleet.core.signing import SigningKey
from emberfleet.runtime.runtime import Runtime
from tests.runtime.stripes import stripes, trained, untrained

KEY = SigningKey(bytes(range(32)))
EVALUATE = evaluate_with((KEY.verify_key,), "numpy", 1)


@pytest.mark.parametrize("positions", [1, 2])
def test_a_bundle_gets_right_what_the_runtime_says_it_does(tmp_path: Path, positions: int) -> None:
    bundle = tmp_path / "model.ember"
    build_bundle(trained(positions), 1, KEY, bundle)
    data = stripes(60, 3, contrast=50, positions=positions)
    expected = Runtime.open(bundle, [KEY.verify_key], "numpy").evaluate(data).code_accuracy
    right = EVALUATE(bundle, data.images, data.labels)
    assert 0 < right < 60
    assert right == round(60 * expected)


def test_an_untrained_model_is_seen_to_be_worse(tmp_path: Path) -> None:
    old, new = tmp_path / "old.ember", tmp_path / "new.ember"
    build_bundle(trained(), 1, KEY, old)
    build_bundle(untrained(), 2, KEY, new)
    data = stripes(40, 3)
    samples = Samples(data.images[:0], data.labels[:0], data.images, data.labels)
    report = judge(EVALUATE, new, old, samples)
    assert isinstance(report, ModelReport)
    assert not report.kept
    assert report.accuracy < 0.6 < report.accuracy_before
    back = judge(EVALUATE, old, new, samples)
    assert back is not None
    assert back.kept


def test_a_bundle_of_somebody_else_is_not_run(tmp_path: Path) -> None:
    bundle = tmp_path / "model.ember"
    build_bundle(trained(), 1, SigningKey.generate(), bundle)
    with pytest.raises(SignatureError):
        EVALUATE(bundle, stripes(2).images, np.zeros(2, np.int64))
