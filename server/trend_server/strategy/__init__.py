"""How the clients' tensors become one step of the shared adapter: an aggregation, then the server's optimiser.

Flower's own strategies are not used. They take each reply as a record with a count of examples, which a client of
ours must not send (it would leak the number of its series); they hold all replies of a round in memory; and they
drive the rounds themselves, without a checkpoint before the next round opens. What remains of them, the mean, the
trimmed mean and the median, is a few lines each.
"""

from trend_server.strategy.base import AGGREGATIONS, Aggregator, make_aggregator
from trend_server.strategy.optimiser import Adam, Optimiser, Plain, Sgd, make_optimiser

__all__ = [
    "AGGREGATIONS",
    "Adam",
    "Aggregator",
    "Optimiser",
    "Plain",
    "Sgd",
    "make_aggregator",
    "make_optimiser",
]
