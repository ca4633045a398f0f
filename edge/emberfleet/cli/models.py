"""The network that a command measures: a signed bundle, or a built-in one by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emberfleet.cli.keys import trusted_keys

if TYPE_CHECKING:
    from emberfleet.train.trained import TrainedModel

ModelArgument = Annotated[
    str, typer.Argument(help="A bundle, such as model.ember, or a built-in net: small, sq32 or sq224.")
]


def find_model(name: str, trust: list[str] | None) -> TrainedModel:
    """The built-in network of this name, else the model in the bundle at this path.

    Raises:
        ConfigError: neither; or no key to trust.
    """
    from emberfleet.core.errors import ConfigError
    from emberfleet.runtime.workloads import BUILT_IN, built_in_model

    if name in BUILT_IN:
        return built_in_model(name)
    if not Path(name).exists():
        raise ConfigError(
            f"there is no file '{name}'; name a bundle, or a built-in net: {', '.join(BUILT_IN)}"
        )
    from emberfleet.converters.bundle import model_of
    from emberfleet.core.bundle import Bundle

    return model_of(Bundle.open(Path(name), trusted_keys(trust)))
