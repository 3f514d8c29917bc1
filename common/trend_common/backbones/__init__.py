"""Forecasting models behind one interface."""

from trend_common.backbones.base import LEVELS, Backbone, Batch, Capabilities, ForecastOutput
from trend_common.backbones.registry import SHIPPED, backbone_sha256, load_backbone

__all__ = [
    "LEVELS",
    "SHIPPED",
    "Backbone",
    "Batch",
    "Capabilities",
    "ForecastOutput",
    "backbone_sha256",
    "load_backbone",
]
