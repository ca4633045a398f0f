"""Calibration: what 8 bits need to know about a trained model, and what loses least."""

from emberfleet.train.calibration.ranges import METHODS, calibrate

__all__ = ["METHODS", "calibrate"]
