"""Boosted trees on top of the pretrained model, fitted to a retailer's own sales; they never leave.

The backbone knows what sales are like, and nothing of this retailer. Trees are told what it forecasts, beside the
series' own lags, the calendar and what is planned, and learn from all series of the retailer together where it is
wrong. Gradient boosting over many series at once is what wins on retail data (Makridakis et al., International
Journal of Forecasting 38, 2022, on M5); LightGBM is Ke et al., NIPS 2017.
"""

from typing import Final

__all__ = ["TREES"]

TREES: Final = "boosted-trees"
"""Name of the method. What it is made of is heavy to import: :mod:`trend_client.trees.forecaster`."""
