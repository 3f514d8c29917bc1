"""What both sides of a federation agree on: the data model, the backbone, the privacy, the wire.

Nothing here imports ``trend_client``, ``trend_server`` or ``trend_simulations``: a retailer's auditor who reads
this package and ``trend_client`` has read everything that touches the sales data.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
