"""From the operator's settings to the plan that clients are asked to accept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trend_common.covariates import DEFAULT_CONTEXT
from trend_common.errors import UsageError
from trend_common.protocol import FederationPlan
from trend_server.checkpoints import Announcement
from trend_server.settings import ServerSettings

if TYPE_CHECKING:
    from trend_common.backbones.base import Backbone

__all__ = ["make_plan"]


def make_plan(
    settings: ServerSettings, *, backbone: Backbone | None = None, sha256: str | None = None, seed: int = 0
) -> Announcement:
    """Draw a fresh adapter, calibrate the noise, and write it all into a plan.

    Args:
        settings: What the operator, or a simulation, asks for.
        backbone: Loaded and without an adapter; default: the settings' backbone is loaded.
        sha256: Its hash, if it is known already.
        seed: Of the adapter's A.

    Raises:
        UsageError: The backbone cannot forecast so far, or there is none of that name.
    """
    from trend_common import adapters
    from trend_common.backbones import backbone_sha256, load_backbone
    from trend_common.privacy.plan import make_privacy_plan
    from trend_common.protocol import SecureAggregationPlan
    from trend_common.secagg.fixedpoint import range_of

    backbone = backbone or load_backbone(settings.backbone)
    if settings.horizon > backbone.max_horizon:
        raise UsageError(
            f"The backbone {settings.backbone} forecasts at most {backbone.max_horizon} steps, not "
            f"{settings.horizon}.",
            "Lower --horizon.",
        )
    adapter, initial, frozen = adapters.initial_adapter(
        backbone,
        rank=settings.rank,
        alpha=2.0 * settings.rank,
        targets=tuple(backbone.lora_targets),
        train=settings.train,
        seed=seed,
        layers=settings.layers,
    )
    privacy = None
    if settings.private:
        privacy = make_privacy_plan(
            epsilon=settings.epsilon,
            delta=settings.delta,
            clip=settings.clip,
            rounds=settings.rounds,
            steps=settings.steps,
            unit=settings.unit,
            buckets={name: (bucket.q, bucket.expected_batch) for name, bucket in settings.buckets.items()},
        )
    gradient = settings.update == "gradient"
    plan = FederationPlan(
        federation=settings.federation,
        backbone=settings.backbone,
        backbone_sha256=sha256 or backbone_sha256(backbone),
        adapter=adapter,
        freq=settings.freq,
        horizon=settings.horizon,
        context=min(settings.context or DEFAULT_CONTEXT[settings.freq], backbone.max_context),
        rounds=settings.rounds,
        steps=settings.steps,
        windows_per_series=settings.windows_per_series,
        launch_share=settings.launch_share,
        update=settings.update,
        local_learning_rate=0.0 if gradient else settings.local_learning_rate,
        proximal_mu=0.0 if gradient else settings.proximal_mu,
        privacy=privacy,
        wire=settings.wire,
    )
    if settings.secure_aggregation:
        rules = SecureAggregationPlan(
            min_clients=settings.min_clients,
            max_clients=settings.secure_clients,
            threshold=settings.secure_threshold,
            range=range_of(plan),
        )
        plan = FederationPlan.model_validate(
            {**plan.model_dump(), "wire": "fixed32", "secure_aggregation": rules.model_dump()}
        )
    return Announcement(plan, initial, frozen)
