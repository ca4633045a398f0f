"""Open a bundle, run it, retrain it, roll back.

`Runtime` and its values are here by name; each is loaded when first asked for, so that importing
this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emberfleet.runtime.prediction import Prediction
    from emberfleet.runtime.retraining import RetrainPlan
    from emberfleet.runtime.runtime import RetrainResult, Runtime

__all__ = ["Prediction", "RetrainPlan", "RetrainResult", "Runtime"]

_HOMES = {
    "Prediction": "prediction",
    "RetrainPlan": "retraining",
    "RetrainResult": "runtime",
    "Runtime": "runtime",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
