"""What this client allows, in a file that a person owns: ``policy.toml``.

A server proposes; the client decides. :meth:`Policy.check_plan` is asked for the whole federation before anything is
agreed to, and names everything that the policy forbids at once. It looks at the plan, the policy and the ledger,
never at the sales data: whether a client accepts is visible to the server, so it must not depend on what it holds.

The question that does depend on the data, whether there are enough series to train on, is :meth:`Policy.check_units`.
It belongs before the first connection, where a person reads the answer and decides; a program that answered a server
by it would reveal, to one who knows all series but one, whether that one is there.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trend_common.errors import PolicyError
from trend_common.files import private_directory, write_text
from trend_common.privacy.accounting import Run, compose
from trend_common.privacy.plan import Caps, nearest_plan, plan_run
from trend_common.protocol import AdapterPlan, BucketName, FederationPlan, PrivacyPlan
from trend_common.secagg.rules import secure_problems

__all__ = ["SHIPPED", "AdapterPolicy", "Policy", "Verdict"]

SHIPPED = "shipped"
"""In ``backbones``: the backbone that came with this installation, by the hash of its own files."""

_TENSOR = re.compile(r"^(?P<layer>\w+(?:\.\w+)*)\.lora_(?P<factor>[AB])(?:\.\w+)?\.weight$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class AdapterPolicy(_Strict):
    """What an adapter may be."""

    max_parameters: int = Field(
        default=200_000, ge=1, description="Most numbers that are trained, and travel, in a round."
    )
    max_rank: int = Field(default=16, ge=1, description="Largest rank of the LoRA.")
    targets: list[str] = Field(
        default=[
            *("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
            *("in1", "in2", "in_skip", "head1", "head2"),
        ],
        description="Linear layers that may carry an adapter.",
    )
    max_bytes: int = Field(
        default=2_000_000, ge=1, description="Most bytes of one message, and of the tensors that come with a plan."
    )


class Policy(_Strict):
    """The caps of one client. Every field is a key of ``policy.toml``."""

    require_privacy: bool = Field(
        default=True, description="Refuse every federation without differential privacy (rehearsals on toy data)."
    )
    epsilon_per_federation: float = Field(
        default=8.0, gt=0, description="Most privacy (epsilon) that one federation may cost."
    )
    epsilon_total: float = Field(
        default=8.0,
        gt=0,
        description="Most privacy that all federations together may cost, for ever. It never renews.",
    )
    delta_max: float = Field(
        default=1e-5, gt=0, le=1e-3, description="Largest delta: roughly the chance that epsilon does not hold."
    )
    steps_max: int = Field(default=1000, ge=1, description="Most noised steps of one federation (rounds x steps).")
    noise_multiplier_min: float = Field(
        default=0.5, gt=0, description="Least noise of one step, as a multiple of the clipping norm."
    )
    clip_max: float = Field(default=10.0, gt=0, description="Largest clipping norm.")
    units: list[Literal["series", "product", "store"]] = Field(
        default=["series", "product", "store"],
        min_length=1,
        description="What may be protected as one unit. If you sell a product in several stores, "
        '["product", "store"] protects it in all of them at once.',
    )
    bucket: BucketName = Field(
        default="S",
        description="The size that you declare to servers: S, M or L. It is told to the server, so it is yours to "
        "write: the program never sets it from your data.",
    )
    min_units: int = Field(
        default=20,
        ge=1,
        description="Fewer units (series) than this, and you are told before the first connection that joining for "
        "the adapter alone is wiser than training.",
    )
    backbones: list[str] = Field(
        default=[SHIPPED],
        min_length=1,
        description='Models that may be trained: "shipped" is the one that came with this program; others by the '
        "SHA-256 of their files, 64 hexadecimal digits.",
    )
    require_secure_aggregation: bool = Field(
        default=False,
        description="Refuse every federation in which the server sees your noised answers alone and not only the sum "
        "of all clients'.",
    )
    secure_threshold_min: float = Field(
        default=0.5,
        ge=0.5,
        lt=1,
        description="Under secure aggregation more than this share of a round's clients must help to reveal its sum; "
        "with 0.67 a third of them may conspire with the server.",
    )
    adapter: AdapterPolicy = AdapterPolicy()

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read ``path``; where there is none, first write the defaults there, commented, for the owner alone.

        Raises:
            PolicyError: Not TOML, an unknown key (the nearest known one is named), or a value out of its range; all
                problems are named.
        """
        if not path.exists():
            private_directory(path.parent)
            write_text(path, _document(cls()), private=True)
        try:
            found = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise PolicyError(
                f"{path} is not a TOML file: {error}.",
                "Correct that place, or move the file away: the defaults are then written anew.",
            ) from error
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            problems = "; ".join(_problem(item) for item in error.errors())
            raise PolicyError(
                f"{path}: {problems}.", "Correct these lines. Nothing was read or sent under this policy."
            ) from error

    def check_units(self, n_units: int) -> None:
        """Are there enough units to make training sensible, and not too many for δ? BEFORE the first connection.

        For a person's eyes.

        Never call this to decide on an answer to a server, and never after a plan was accepted: the answer would be a
        function of the exact number of series, for which no ε holds.

        Raises:
            PolicyError: Fewer than ``min_units``, or so many that ``delta_max`` is no promise. The message names the
                number and must stay on this screen.
        """
        if n_units * self.delta_max >= 1:
            safe = 10.0 ** math.floor(math.log10(0.1 / n_units))
            raise PolicyError(
                f"delta_max is {self.delta_max:g} and there are {n_units} units: a δ of one in the number of units "
                "allows a mechanism that publishes one of them as it is.",
                f"Set delta_max = {safe:g} in policy.toml, and ask the operator for a plan with that δ.",
            )
        if n_units < self.min_units:
            raise PolicyError(
                f"There are {n_units} units to train on; the policy asks for at least {self.min_units}. With so few, "
                "the noise that protects them outweighs what they teach.",
                "You can use the shared adapter without training. If you want to train nevertheless, set min_units "
                "in policy.toml: that is your decision, and the server does not see the number.",
            )

    def check_plan(self, plan: FederationPlan, *, backbone_sha256: str, spent: Sequence[Run]) -> Verdict:
        """What the whole plan costs, if the policy allows it.

        Args:
            plan: As received.
            backbone_sha256: Hash of the shipped backbone, computed here.
            spent: What the ledger has charged, and what it has promised to other open federations.

        Raises:
            PolicyError: Something is not allowed; the message lists all of it and stays on this screen.
        """
        problems = self._backbone_problems(plan, backbone_sha256) + self._adapter_problems(plan.adapter)
        if plan.rounds * plan.steps > self.steps_max:
            problems.append(
                f"{plan.rounds} rounds of {plan.steps} steps are {plan.rounds * plan.steps} steps; "
                f"steps_max is {self.steps_max}"
            )
        problems += secure_problems(plan, self.require_secure_aggregation, self.secure_threshold_min)
        epsilon = total = math.inf
        nearest = ""
        if plan.privacy is None:
            if self.require_privacy:
                problems.append("the plan has no differential privacy; require_privacy is true")
        elif self.bucket not in plan.privacy.buckets:
            problems.append(
                f"the plan has no bucket {self.bucket}, which you declared; "
                f"it has {', '.join(sorted(plan.privacy.buckets))}"
            )
        else:
            run = plan_run(plan, self.bucket)
            epsilon = compose([run], plan.privacy.delta)
            total = compose([*spent, run], self.delta_max)
            found = self._privacy_problems(plan.privacy, run, epsilon, total)
            if found or plan.rounds * plan.steps > self.steps_max:
                nearest = nearest_plan(plan, self.bucket, self._caps(), spent)
            problems += found
        if problems:
            if nearest:
                nearest = f"The nearest plan that these caps would allow: {nearest}.\n"
            listed = "".join(f"\n  - {problem}" for problem in problems)
            raise PolicyError(
                f'The policy does not allow the plan of federation "{plan.federation}":{listed}',
                f"{nearest}Nothing was read or sent, and the server is told only that you decline. Ask the operator "
                "for another plan, or, if you own the data and want to allow this, change these keys in policy.toml.",
            )
        return Verdict(bucket=self.bucket, epsilon=epsilon, epsilon_total=total)

    def _caps(self) -> Caps:
        return Caps(
            epsilon=self.epsilon_per_federation,
            epsilon_total=self.epsilon_total,
            delta=self.delta_max,
            steps=self.steps_max,
            sigma=self.noise_multiplier_min,
            clip=self.clip_max,
        )

    def _backbone_problems(self, plan: FederationPlan, shipped: str) -> list[str]:
        allowed = {shipped if name == SHIPPED else name.lower() for name in self.backbones}
        if plan.backbone_sha256 in allowed:
            return []
        return [
            f"backbone {plan.backbone!r} with hash {plan.backbone_sha256[:12]}… is not in backbones; "
            f"the shipped one is {shipped[:12]}…"
        ]

    def _adapter_problems(self, adapter: AdapterPlan) -> list[str]:
        caps, problems = self.adapter, list[str]()
        if adapter.parameters > caps.max_parameters:
            problems.append(
                f"the adapter trains {adapter.parameters} numbers; adapter.max_parameters is {caps.max_parameters}"
            )
        if adapter.rank > caps.max_rank:
            problems.append(f"the adapter has rank {adapter.rank}; adapter.max_rank is {caps.max_rank}")
        if strange := sorted(set(adapter.targets) - set(caps.targets)):
            problems.append(
                f"the adapter sits on {', '.join(map(repr, strange[:5]))}; adapter.targets does not name them "
                "(the shipped list is trend-small's; docs/backbones.md has those of other backbones)"
            )
        largest = 4 * max(adapter.parameters, sum(spec.size for spec in adapter.frozen))
        if largest > caps.max_bytes:
            problems.append(f"a message would hold {largest} bytes; adapter.max_bytes is {caps.max_bytes}")
        trained = "B" if adapter.train == "B" else "AB"
        for specs, factors in ((adapter.tensors, trained), (adapter.frozen, "AB")):
            for spec in specs:
                match = _TENSOR.search(spec.name)
                ends = tuple(f".{target}" for target in adapter.targets)
                if match is None or not f".{match['layer']}".endswith(ends) or match["factor"] not in factors:
                    problems.append(
                        f"tensor {spec.name!r} is not a LoRA factor {' or '.join(factors)} of its targets"
                    )
                elif len(spec.shape) != 2 or spec.shape[1 if match["factor"] == "B" else 0] != adapter.rank:
                    problems.append(f"tensor {spec.name!r} of shape {spec.shape} does not have rank {adapter.rank}")
        return problems if len(problems) <= 12 else [*problems[:12], f"and {len(problems) - 12} more of the adapter"]

    def _privacy_problems(self, privacy: PrivacyPlan, run: Run, epsilon: float, total: float) -> list[str]:
        problems: list[str] = []
        if epsilon > self.epsilon_per_federation:
            problems.append(
                f"it costs ε = {epsilon:.3g} at δ = {privacy.delta:g}; "
                f"epsilon_per_federation is {self.epsilon_per_federation:g}"
            )
        if total > self.epsilon_total:
            problems.append(
                f"with what is spent and promised already the total would be ε = {total:.3g} at δ = "
                f"{self.delta_max:g}; epsilon_total is {self.epsilon_total:g}"
            )
        if epsilon > privacy.epsilon * 1.01:
            problems.append(f"it claims ε = {privacy.epsilon:.3g}, but its noise gives ε = {epsilon:.3g}")
        if privacy.delta > self.delta_max:
            problems.append(f"δ is {privacy.delta:g}; delta_max is {self.delta_max:g}")
        if run.sigma < self.noise_multiplier_min:
            problems.append(
                f"the noise multiplier is {run.sigma:g}; noise_multiplier_min is {self.noise_multiplier_min:g}"
            )
        if privacy.clip > self.clip_max:
            problems.append(f"the clipping norm is {privacy.clip:g}; clip_max is {self.clip_max:g}")
        if privacy.unit not in self.units:
            problems.append(f"the unit is one {privacy.unit}; units has {', '.join(self.units)}")
        return problems


@dataclass(frozen=True, slots=True)
class Verdict:
    """An allowed plan, for the client's own screen.

    Attributes:
        bucket: What the person declared; the only thing that the server is told.
        epsilon: Of this federation at its own δ, computed anew; infinity without privacy.
        epsilon_total: Of everything spent and promised, this federation included, at the policy's δ.
    """

    bucket: BucketName
    epsilon: float
    epsilon_total: float


def _problem(item: Any) -> str:
    """One pydantic error in the words of the file."""
    key = ".".join(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        return f"{key} is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
    known = [*Policy.model_fields, *(f"adapter.{name}" for name in AdapterPolicy.model_fields)]
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"there is no key {key}" + (f"; did you mean {nearest[0]}?" if nearest else "")


def _document(policy: Policy) -> str:
    """``policy.toml`` with every key, its value and what it means."""
    lines = [
        "# What this client allows a federation to do with your data. It is read by this program alone and never",
        "# sent. Lower a number to allow less. A plan that breaks any of this is declined before data is touched.",
    ]
    for name, field in Policy.model_fields.items():
        if name != "adapter":
            lines += ["", *_comment(field.description or ""), f"{name} = {_toml(getattr(policy, name))}"]
    lines += ["", "[adapter]"]
    for name, field in AdapterPolicy.model_fields.items():
        lines += [*_comment(field.description or ""), f"{name} = {_toml(getattr(policy.adapter, name))}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    import textwrap

    return [f"# {line}" for line in textwrap.wrap(text, 110)]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return f"{value:_}" if isinstance(value, int) else repr(value)
