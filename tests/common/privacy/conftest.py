"""A federation's plan that the default policy allows, with any field replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trend_common.protocol import AdapterPlan, BucketPlan, FederationPlan, PrivacyPlan
from trend_common.tensors import TensorSpec

SHIPPED_SHA256 = "a" * 64


@pytest.fixture
def make_plan() -> Callable[..., FederationPlan]:
    """``make_plan(rounds=3, privacy={"clip": 1.0}, adapter={...}, sigma=..., q=...)``."""

    def make(
        *,
        sigma: float = 4.84,
        q: float = 1.0,
        privacy: dict[str, Any] | None = None,
        adapter: dict[str, Any] | None = None,
        **fields: Any,
    ) -> FederationPlan:
        base: dict[str, Any] = {
            "federation": "spring",
            "backbone": "trend-small",
            "backbone_sha256": SHIPPED_SHA256,
            "freq": "D",
            "horizon": 28,
            "context": 140,
            "rounds": 20,
            "steps": 1,
            "windows_per_series": 4,
            "update": "gradient",
            "local_learning_rate": 0.0,
            "proximal_mu": 0.0,
        }
        name = "base_model.model.core.blocks.0.q_proj"
        lora: dict[str, Any] = {
            "rank": 2,
            "alpha": 2.0,
            "targets": ("q_proj",),
            "tensors": (TensorSpec(name=f"{name}.lora_B.weight", shape=(8, 2)),),
            "frozen": (TensorSpec(name=f"{name}.lora_A.weight", shape=(2, 8)),),
            "frozen_sha256": "b" * 64,
        }
        dp: dict[str, Any] = {
            "epsilon": 4.0,
            "delta": 1e-5,
            "clip": 0.1,
            "buckets": {"S": BucketPlan(q=q, noise_multiplier=sigma, expected_batch=30)},
        }
        plan = base | fields
        chosen = plan.pop("privacy_plan", PrivacyPlan(**(dp | (privacy or {}))))
        if chosen is None:
            plan["wire"] = "float32"
        return FederationPlan(adapter=AdapterPlan(**(lora | (adapter or {}))), privacy=chosen, **plan)

    return make
