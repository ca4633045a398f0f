"""Each tensor rounded alone: what loses most comes first, and the picture shows it."""

from __future__ import annotations

import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np

from emberfleet.train.calibration.model import Calibration, calibrate_model
from emberfleet.train.calibration.sensitivity import Sensitivity, draw_sensitivity, measure_sensitivity
from tests.train.calibration.networks import fire_model, photos

PLAIN = Calibration("minmax", equalise=False, spread=False, rounding=False)


def test_a_range_that_is_far_too_wide_is_found() -> None:
    ready = calibrate_model(fire_model(), photos(), PLAIN)
    x = ready.preprocessing.apply(photos())
    before = {one.tensor: one.signal_to_noise_db for one in measure_sensitivity(ready, x)}
    wide = replace(
        ready, tensors={**ready.tensors, "relu/range": ready.tensors["relu/range"] * np.float32(40)}
    )
    found = measure_sensitivity(wide, x)
    assert found[0].tensor == "relu"
    assert found[0].signal_to_noise_db < before["relu"] - 20
    assert {one.tensor for one in found} >= {"input", "relu1", "squeeze_relu", "head/weight", "right/weight"}
    others = {one.tensor: one.signal_to_noise_db for one in found[1:]}
    assert others == {name: before[name] for name in others}


def test_the_picture_has_a_bar_for_each_tensor() -> None:
    found = [Sensitivity("a", 12.5), Sensitivity("b<c", 55.0), Sensitivity("d", math.inf)]
    root = ElementTree.fromstring(draw_sensitivity(found))
    names = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert names == ["a", "12.5 dB", "b<c", "55.0 dB", "d", "exact"]
    widths = [float(node.attrib["width"]) for node in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths == sorted(widths)
