from __future__ import annotations

import numpy as np
import pytest

from emberfleet.converters.bundle import build_bundle, model_of
from emberfleet.core.bundle import Bundle
from emberfleet.core.errors import ConfigError, QuantError, ShapeError
from emberfleet.core.signing import SigningKey
from emberfleet.runtime.publishing import republish
from tests.runtime.stripes import trained

KEY = SigningKey(bytes(range(32)))


def _published() -> Bundle:
    return Bundle.open(build_bundle(trained(), 4, KEY, name="stripes"), [KEY.verify_key])


def test_the_next_version_has_the_new_weights_and_names_its_parent() -> None:
    old = _published()
    bias = np.arange(5, dtype=np.float32)
    data = republish(old, {"classifier/bias": bias}, 5, KEY, metrics={"accuracy": 0.5})
    new = Bundle.open(data, [KEY.verify_key])
    assert new.manifest.model_version == 5
    assert new.manifest.model_name == "stripes"
    assert new.manifest.parent == old.digest
    assert new.manifest.metrics == {"accuracy": 0.5}
    assert new.manifest.plans == old.manifest.plans
    found = model_of(new).tensors
    np.testing.assert_array_equal(found["classifier/bias"], bias)
    np.testing.assert_array_equal(found["conv1/weight"], trained().tensors["conv1/weight"])
    assert new.part("model.tflite") != old.part("model.tflite")
    assert new.part("opencl/weights.safetensors") != old.part("opencl/weights.safetensors")


def test_a_version_that_is_not_higher_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than 4"):
        republish(_published(), {}, 4, KEY)


def test_tensors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="no tensor named nose/weight"):
        republish(_published(), {"nose/weight": np.zeros(1, np.float32)}, 5, KEY)
    with pytest.raises(ShapeError, match="classifier/bias"):
        republish(_published(), {"classifier/bias": np.zeros(2, np.float32)}, 5, KEY)


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(QuantError, match="not finite"):
        republish(_published(), {"classifier/bias": np.full(5, np.inf, np.float32)}, 5, KEY)
