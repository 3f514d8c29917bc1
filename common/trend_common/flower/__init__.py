"""Flower, and the only place that touches its internals.

Everything else in this project uses Flower's public faces (``flwr.app``, ``flwr.clientapp``, ``flwr.serverapp``).
Flower's internals move with every release, so flwr is pinned exactly and ``tests/common/flower/test_contract.py``
names each internal that is used here.

Importing this package switches Flower's calls home off, before anything of Flower is loaded.
"""

from trend_common.flower.environment import prepare

prepare()
