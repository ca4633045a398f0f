"""What a round is to be: how many devices, how long, which tensors, how they train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, Final

from emberfleet.core.arrays import Tensors
from emberfleet.core.codec import Fields, Scalar
from emberfleet.core.errors import ConfigError, RoundError
from emberfleet.core.messages import MAX_SAMPLES, MAX_SECONDS
from emberfleet.core.offers import LEAST_CORRUPT_SHARE, MAX_MEMBERS, MOST_DROPOUT_SHARE, Mode, SecureTerms
from emberfleet.core.secure.parameters import LEAST_COHORT, choose_parameters
from emberfleet.core.updates import WIRE_TYPES, UpdatePlan
from emberfleet.server.aggregate.optimizers import OPTIMIZERS
from emberfleet.server.aggregate.rules import RuleSettings

TIMES: Final = (
    "pool_wait_s", "deadline_s", "keys_s", "shares_s", "confirm_s", "unmask_s", "lease_s", "presence_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """The settings of a round.

    Attributes:
        mode: `secure`: the server learns sums alone; `sealed`: it opens each update.
        cohort: Updates wanted; the round ends as soon as it has them.
        over_selection: Extra share of devices asked, against drop-out: 0.3 asks 13 for 10.
        minimum: Fewest updates that make a model; below it the round fails.
        pool: Devices that must be there before the cohort is drawn from them; 0 for as many as asked.
        pool_wait_s: After this long the cohort is drawn from those who are there, if at least `minimum`.
        deadline_s: Longest time from the draw to the last update.
        keys_s: In a secure round, longest time from the draw until all sent their keys.
        shares_s: The same, from then on until all sent their shares.
        confirm_s: The same, from the last update until all confirmed who survived.
        unmask_s: The same, from then on until enough shares came back.
        corrupt_share: Share of a secure round's devices that may work with the server.
        dropout_share: Share of them that may vanish.
        heaviest: The largest weight of a device in a secure round; 1: all weigh the same.
        coordinates: Share of the update's values that the devices of a secure round send.
        quarantine_rounds: For so many rounds a device that sent what does not fit is not drawn.
        lease_s: A device not heard for this long is dropped; 0 waits for the deadline.
        presence_s: A device counts as there for this long after it last asked for work.
        scope: Name of one of the bundle's ways of retraining: updates carry its tensors.
        tensors: Patterns of the names of the tensors that updates carry, where `scope` is empty.
        bits: Width of one value of an update: 8, 16, or 32 for float32.
        clip: Largest change sent, beyond `relative_clip` times the tensor's largest value.
        relative_clip: See `clip`.
        training: Settings handed to the devices' retraining.
        rate_decay: Factor on ``training["rate"]`` from one round to the next.
        warmup_rounds: Rounds over which that rate rises to its full height, in equal steps; a trained
            model that many devices change at once is not thrown off by the first of them.
        rule: How the updates of a sealed round become one: a name in `aggregate.rules.RULES`.
        byzantine_share: Share of lying devices that `trimmed_mean`, `krum` and `multi_krum` are to bear.
        norm_clip: Norm that `clipped_mean` cuts updates to; 0 for the median of the round's norms.
        norm_bound: A sealed update with a larger L2 norm is refused; 0 for no bound.
        weight_bound: A sealed update that claims more samples is refused.
        server_optimizer: ``fedavg``, ``fedavgm``, ``fedadam`` or ``fedyogi``.
        server_rate: Its learning rate; of ``fedavg`` the share of the mean change that is applied.
        server_momentum: What it keeps of its direction from round to round (beta1); not for ``fedavg``.
        server_beta2: What ``fedadam`` and ``fedyogi`` keep of the mean square.
        server_tau: How adaptive these two are: the smaller, the more.
        seed: Of the draw and of the devices' training.
    """

    mode: Mode = Mode.SECURE
    cohort: int = 20
    over_selection: float = 0.0
    minimum: int = 3
    pool: int = 0
    pool_wait_s: float = 30.0
    deadline_s: float = 600.0
    keys_s: float = 30.0
    shares_s: float = 30.0
    confirm_s: float = 30.0
    unmask_s: float = 30.0
    corrupt_share: float = 0.05
    dropout_share: float = 0.3
    heaviest: int = 1
    coordinates: float = 1.0
    quarantine_rounds: int = 20
    lease_s: float = 15.0
    presence_s: float = 45.0
    scope: str = ""
    tensors: tuple[str, ...] = ("*",)
    bits: int = 16
    clip: float = 0.25
    relative_clip: float = 1.0
    training: Mapping[str, Scalar] = field(default_factory=dict)
    rate_decay: float = 1.0
    warmup_rounds: int = 0
    rule: str = "mean"
    byzantine_share: float = 0.2
    norm_clip: float = 0.0
    norm_bound: float = 0.0
    weight_bound: int = MAX_SAMPLES
    server_optimizer: str = "fedavg"
    server_rate: float = 1.0
    server_momentum: float = 0.0
    server_beta2: float = 0.99
    server_tau: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        def check(fine: bool, name: str, expected: str) -> None:
            if not fine:
                raise ConfigError(f"round plan: {name} is {getattr(self, name)}, expected {expected}")

        check(1 <= self.cohort <= 100_000, "cohort", "1 to 100000")
        check(0 <= self.over_selection <= 10, "over_selection", "0 to 10")
        check(1 <= self.minimum <= self.cohort, "minimum", "1 to the cohort")
        check(0 <= self.pool <= 1_000_000, "pool", "0 to 1000000")
        for name in TIMES:
            check(0 <= getattr(self, name) <= MAX_SECONDS, name, f"0 to {MAX_SECONDS:.0f}")
        check(bool(self.tensors), "tensors", "at least one pattern")
        check(self.bits in WIRE_TYPES, "bits", "8, 16 or 32")
        check(0 < self.clip <= 1e6, "clip", "above 0")
        check(0 <= self.relative_clip <= 1e6, "relative_clip", "0 or more")
        check(0 < self.rate_decay <= 1, "rate_decay", "above 0 to 1")
        check(0 <= self.warmup_rounds <= 100_000, "warmup_rounds", "0 to 100000")
        check(0 < self.server_rate <= 10, "server_rate", "above 0 to 10")
        check(self.server_optimizer in OPTIMIZERS, "server_optimizer", f"one of {', '.join(OPTIMIZERS)}")
        check(0 <= self.server_momentum < 1, "server_momentum", "0 to below 1")
        check(
            not self.server_momentum or self.server_optimizer != "fedavg",
            "server_momentum",
            "0 with the server_optimizer fedavg; fedavgm, fedadam and fedyogi have momentum",
        )
        check(0 <= self.server_beta2 < 1, "server_beta2", "0 to below 1")
        check(0 < self.server_tau <= 1, "server_tau", "above 0 to 1")
        check(0 <= self.norm_bound <= 1e6, "norm_bound", "0 to 1000000")
        check(1 <= self.weight_bound <= MAX_SAMPLES, "weight_bound", f"1 to {MAX_SAMPLES}")
        try:
            self.rule_settings.check_cohort(self.minimum)
        except (ConfigError, RoundError) as error:
            raise ConfigError(f"round plan: {error}") from error
        check(0 <= self.seed < 1 << 53, "seed", "0 to 2**53")
        check(0 <= self.quarantine_rounds <= 100_000, "quarantine_rounds", "0 to 100000")
        if self.mode is Mode.SECURE:
            check(self.rule == "mean", "rule", "mean in a secure round: there are no single updates")
            check(self.norm_bound == 0, "norm_bound", "0 in a secure round: there are no single updates")
            check(self.bits in (8, 16), "bits", "8 or 16 in a secure round")
            check(1 <= self.heaviest <= MAX_SAMPLES, "heaviest", f"1 to {MAX_SAMPLES}")
            check(2**-32 <= self.coordinates <= 1, "coordinates", "above 0 to 1")
            check(self.asked <= MAX_MEMBERS, "cohort", f"at most {MAX_MEMBERS} devices asked")
            for name in ("keys_s", "shares_s", "confirm_s", "unmask_s"):
                check(getattr(self, name) > 0, name, "above 0 in a secure round")
            check(
                self.minimum >= LEAST_COHORT,
                "minimum",
                f"at least {LEAST_COHORT} in a secure round: of two devices each learns the other's update",
            )
            least, most = LEAST_CORRUPT_SHARE, MOST_DROPOUT_SHARE
            check(
                self.corrupt_share >= least,
                "corrupt_share",
                f"at least {least} in a secure round: devices leave",
            )
            check(
                self.dropout_share <= most,
                "dropout_share",
                f"at most {most} in a secure round: devices leave",
            )
            choose_parameters(self.minimum, self.corrupt_share, self.dropout_share)

    @property
    def rule_settings(self) -> RuleSettings:
        """How the updates of a sealed round become one."""
        return RuleSettings(self.rule, self.byzantine_share, self.norm_clip)

    @property
    def secure_terms(self) -> SecureTerms:
        """What the devices of a secure round agree on beside the training."""
        return SecureTerms(
            self.minimum, self.corrupt_share, self.dropout_share, self.heaviest, self.coordinates
        )

    @property
    def asked(self) -> int:
        """Devices asked for an update."""
        return math.ceil(self.cohort * (1 + self.over_selection))

    @property
    def wanted_present(self) -> int:
        """Devices that must be there before the draw."""
        return max(self.pool, self.asked)

    def training_of(self, number: int) -> dict[str, Scalar]:
        """The training settings of the round with this number, counted from 1."""
        settings = dict(self.training)
        if self.scope:
            settings.setdefault("scope", self.scope)
        rate = settings.get("rate")
        if isinstance(rate, int | float):
            rise = min(1.0, number / (self.warmup_rounds + 1))
            settings["rate"] = rate * rise * self.rate_decay ** (number - 1)
        return settings

    def update_plan(self, model: Tensors, scopes: Mapping[str, tuple[str, ...]]) -> UpdatePlan:
        """The updates of a round on this model.

        Args:
            model: Its tensors.
            scopes: The bundle's ways of retraining, with the tensors that each changes.

        Raises:
            ConfigError: The model has no such scope, or no tensor that the patterns allow.
        """
        if self.scope:
            if self.scope not in scopes:
                known = ", ".join(sorted(scopes)) or "none"
                raise ConfigError(f"round plan: scope is '{self.scope}', and the bundle has {known}")
            return UpdatePlan.for_model(model, scopes[self.scope], self.bits, self.clip, self.relative_clip)
        names = [
            name for name in sorted(model) if any(fnmatchcase(name, pattern) for pattern in self.tensors)
        ]
        if not names:
            raise ConfigError(f"round plan: no tensor of the model is named like {', '.join(self.tensors)}")
        return UpdatePlan.for_model(model, names, self.bits, self.clip, self.relative_clip)

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON value."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        listed = {"tensors": list(self.tensors), "training": dict(self.training)}
        return {**values, "mode": self.mode.value, **listed}

    @classmethod
    def from_fields(cls, found: Fields) -> RoundPlan:
        """Read what `to_json` gave; a setting that is left out keeps its default."""
        values = {**cls().to_json(), **found.rest()}
        complete = Fields.of(values, "round plan")
        patterns = complete.items("tensors", 4096)
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise complete.wrong("tensors", "a list of patterns")
        training = complete.scalars("training")
        read: dict[str, Any] = {}
        for item in fields(cls):
            if item.name == "mode":
                read["mode"] = Mode(complete.choice("mode", tuple(Mode)))
            elif item.type == "str":
                read[item.name] = complete.text(item.name, 64, default="")
            elif item.name not in ("tensors", "training"):
                read[item.name] = (
                    complete.integer(item.name)
                    if item.type == "int"
                    else complete.number(item.name, 0, MAX_SECONDS)
                )
        complete.done()
        return cls(**read, tensors=tuple(patterns), training=training)
