"""Every message that crosses the wire, as strict models: a field that is not named here cannot travel.

Three messages, each asked by the server and answered by the client (under secure aggregation five others take the
place of ``train``: :mod:`trend_common.secagg.messages`)::

    query.describe   FederationPlan + frozen tensors  ->  DescribeReply      (accepted, bucket) or declined
    train            TrainOrder + shared adapter      ->  TrainReply + delta, or declined
    query.adopt      AdoptOrder + shared adapter      ->  AdoptReply         (always the same)

The client decides. A reason for declining stays on the client's own screen: it could carry information about the
data. The models forbid unknown fields and are frozen; their canonical JSON (sorted keys, no spaces) is what is
hashed, so "the same plan" means the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trend_common.errors import PolicyError
from trend_common.tensors import TensorSpec

__all__ = [
    "ACTION_ADOPT",
    "ACTION_DESCRIBE",
    "ACTION_TRAIN",
    "ARRAYS_KEY",
    "BODY_KEY",
    "PROTOCOL_VERSION",
    "AdapterPlan",
    "AdoptOrder",
    "AdoptReply",
    "BucketName",
    "BucketPlan",
    "DescribeReply",
    "FederationPlan",
    "Name",
    "PrivacyPlan",
    "SecureAggregationPlan",
    "Sha256",
    "TrainOrder",
    "TrainReply",
    "WireModel",
    "parse",
]

PROTOCOL_VERSION: Literal[1] = 1

ACTION_DESCRIBE = "query.describe"
ACTION_TRAIN = "train"
ACTION_ADOPT = "query.adopt"

BODY_KEY = "body"
"""Name of the one ConfigRecord, and of its entry with the model as canonical JSON."""
ARRAYS_KEY = "tensors"
"""Name of the entry beside it with the bytes of a safetensors file: frozen tensors, shared adapter, or delta."""

Model = TypeVar("Model", bound="WireModel")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
BucketName = Literal["S", "M", "L"]


class WireModel(BaseModel):
    """Base of all messages: frozen, and a misspelt or extra field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def canonical(self) -> str:
        """The JSON that is sent and hashed: sorted keys, no spaces, ASCII."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    def sha256(self) -> str:
        """SHA-256 of :meth:`canonical`, in hexadecimal."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


class BucketPlan(WireModel):
    """What a client of one declared size does in each step.

    Attributes:
        q: Probability with which each privacy unit takes part in a step (Poisson sampling; 1 = every unit).
        noise_multiplier: σ, the noise's standard deviation over the clipping norm.
        expected_batch: The public number that sums are divided by; never the client's true number of series.
    """

    q: float = Field(gt=0, le=1)
    noise_multiplier: float = Field(ge=0, le=1e6)
    expected_batch: int = Field(ge=1, le=10_000_000)


class PrivacyPlan(WireModel):
    """The differential privacy of a whole federation: (ε, δ) for each unit, over all rounds and steps.

    Attributes:
        unit: What one unit is; neighbouring data sets differ by one whole unit (add/remove adjacency).
        epsilon: The largest ε that any bucket reaches over ``rounds × steps``, which each client computes anew.
        delta: δ.
        clip: C, the largest Euclidean norm of one unit's gradient.
    """

    unit: Literal["series", "product", "store"] = "series"
    epsilon: float = Field(gt=0, le=1e4)
    delta: float = Field(gt=0, lt=1)
    clip: float = Field(gt=0, le=1e4)
    buckets: dict[BucketName, BucketPlan] = Field(min_length=1)


class AdapterPlan(WireModel):
    """Which LoRA tensors are trained and travel.

    Attributes:
        rank: r of LoRA.
        alpha: LoRA's scale is alpha / rank.
        targets: Names of the linear layers that carry an adapter.
        train: "B" keeps A frozen (FFA-LoRA, so that the mean of the clients' B is exact), "AB" trains both.
        layers: Of the targets those that are trained and travel; empty for all.
        tensors: The tensors that travel each round, in peft's names.
        frozen: The tensors that travel once, with the plan (A where ``train`` is "B").
        frozen_sha256: Hash of the frozen tensors.
    """

    rank: int = Field(ge=1, le=256)
    alpha: float = Field(gt=0)
    targets: tuple[str, ...] = Field(min_length=1)
    train: Literal["B", "AB"] = "B"
    layers: tuple[str, ...] = ()
    tensors: tuple[TensorSpec, ...] = Field(min_length=1)
    frozen: tuple[TensorSpec, ...] = ()
    frozen_sha256: Sha256

    @property
    def parameters(self) -> int:
        """D, the number of trained parameters."""
        return sum(spec.size for spec in self.tensors)


class SecureAggregationPlan(WireModel):
    """The server sees the clients' sum alone; see :mod:`trend_common.secagg`.

    Attributes:
        min_clients: A sum is of at least so many.
        max_clients: A sum is of at most so many, which leaves ``levels`` integers on each side of zero.
        threshold: More than this share of those who sent keys must help to reveal a sum, and to recover a dropout.
        range: R, the largest absolute value of an element (:func:`trend_common.secagg.fixedpoint.range_of`).
    """

    min_clients: int = Field(ge=3, le=10_000)
    max_clients: int = Field(ge=3, le=10_000)
    threshold: float = Field(ge=0.5, lt=1)
    range: float = Field(gt=0, le=1e9)

    @model_validator(mode="after")
    def _room_for_the_fewest(self) -> Self:
        if self.min_clients > self.max_clients:
            raise ValueError("min_clients is above max_clients")
        return self

    @property
    def levels(self) -> int:
        """L: an element is an integer of -L … L, and ``max_clients`` of them fit into 32 bits."""
        return (2**31 - 1) // self.max_clients

    def required(self, clients: int) -> int:
        """Shares that recover a secret, and clients that a sum has at least, where ``clients`` sent keys."""
        return max(self.min_clients, math.floor(self.threshold * clients) + 1)


class FederationPlan(WireModel):
    """Everything that a client agrees to before the first round; it cannot change afterwards.

    Attributes:
        federation: Name of the run; with the round and the hashes it identifies every message.
        backbone: Name of the frozen model; ``backbone_sha256`` is over its configuration and weights.
        freq: Step of the series: "D", "W" or "M".
        horizon: Steps to forecast.
        context: Steps of history that the model sees.
        rounds: Number of ``train`` messages.
        steps: Local steps in each. With privacy and ``steps == 1`` the delta is one noised gradient.
        windows_per_series: k, windows drawn for each unit in a step; their losses are averaged before clipping.
        launch_share: Share of the windows that hide the history and show a stated level instead, so that the
            adapter learns what to do for products and retailers without history.
        update: "gradient": the delta is the (noised) mean gradient, the server has the optimiser. "weights": the
            client takes ``steps`` local steps and the delta is the change of its weights.
        local_learning_rate, proximal_mu: For "weights": step size, and FedProx's μ (0 is FedAvg).
        privacy: None only in rehearsals; a client's default policy refuses it.
        wire: Encoding of the delta: "fixed32" (masked integers) under secure aggregation, and only there.
        secure_aggregation: None where the server sees each client's noised delta.
    """

    version: Literal[1] = PROTOCOL_VERSION
    federation: Name
    backbone: Annotated[str, Field(min_length=1, max_length=200)]
    backbone_sha256: Sha256
    adapter: AdapterPlan
    task: Literal["demand"] = "demand"
    freq: Literal["D", "W", "M"]
    horizon: int = Field(ge=1, le=56)
    context: int = Field(ge=1, le=512)
    rounds: int = Field(ge=1, le=100_000)
    steps: int = Field(ge=1, le=100_000)
    windows_per_series: int = Field(ge=1, le=64)
    launch_share: float = Field(default=0.0, ge=0, le=1)
    update: Literal["gradient", "weights"]
    local_learning_rate: float = Field(ge=0, le=10)
    proximal_mu: float = Field(ge=0, le=1e3)
    privacy: PrivacyPlan | None
    wire: Literal["float32", "int8", "fixed32"] = "int8"
    secure_aggregation: SecureAggregationPlan | None = None

    @model_validator(mode="after")
    def _one_gradient_is_one_step(self) -> Self:
        if self.update == "gradient" and self.steps != 1:
            raise ValueError('update "gradient" sends one gradient a round, so steps must be 1')
        if self.wire == "int8" and self.privacy is None:
            raise ValueError("int8 takes its scale from the values, so it is for noised values only; use float32")
        if (self.wire == "fixed32") != (self.secure_aggregation is not None):
            raise ValueError("fixed32 is the encoding of secure aggregation: one does not go without the other")
        return self


class DescribeReply(WireModel):
    """The client's answer to a plan. ``bucket`` is what a person declared, not a function of the data."""

    answer: Literal["accepted", "declined"]
    bucket: BucketName | None = None

    @model_validator(mode="after")
    def _bucket_iff_accepted(self) -> Self:
        if (self.bucket is not None) != (self.answer == "accepted"):
            raise ValueError("an accepted plan names a bucket, a declined one does not")
        return self


class TrainOrder(WireModel):
    """One round: train from this adapter under this plan.

    The pair of hashes makes the request idempotent: asked again with the same hashes, the client sends the very bytes
    that it sent before; asked for the same round with others, it declines.

    Attributes:
        answered: Rounds of this federation to which the server has had an answer of this client, up to the last
            checkpoint. A client whose ledger holds fewer knows that its disk was rolled back.
    """

    federation: Name
    round: int = Field(ge=1)
    plan_sha256: Sha256
    adapter_sha256: Sha256
    answered: int = Field(default=0, ge=0, le=100_000)


class TrainReply(WireModel):
    """Header of the delta, or a decline. There is no field for a count, a loss or a metric."""

    answer: Literal["delta", "declined"]
    federation: Name
    round: int = Field(ge=1)


class AdoptOrder(WireModel):
    """The final or an interim shared adapter, with its lineage."""

    federation: Name
    round: int = Field(ge=0)
    plan_sha256: Sha256
    adapter_sha256: Sha256
    final: bool


class AdoptReply(WireModel):
    """One constant: whether the client uses the adapter is decided, and stays, with the client."""

    answer: Literal["received"] = "received"


def parse(model: type[Model], text: object) -> Model:
    """Validate ``text`` (JSON) as ``model``.

    Raises:
        PolicyError: It is not that message; the first three problems are named.
    """
    if not isinstance(text, str) or len(text) > 2_000_000:
        raise PolicyError(f"A message that should be {model.__name__} is not text of sensible length.", "")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'message'}: {item['msg']}" for item in error.errors()[:3]
        )
        raise PolicyError(
            f"A message is not a valid {model.__name__}: {problems}.",
            "Both sides must run the same version of the software.",
        ) from error
