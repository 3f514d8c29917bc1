"""Flower's own engine on Ray: ``run_simulation`` with FedAvg, the model cached in each actor.  flower_ray.py WORK OUT

Runs in an environment with flwr[simulation]. Clients of Flower's engine remember nothing of their own; the draws are
each round's by itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", RAY_DISABLE_IMPORT_WARNING="1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

FOLDER, OUT = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
_CACHE: dict[Any, Any] = {}


def prepared() -> Any:
    """The work and the model, once a process."""
    import work

    if "work" not in _CACHE:
        _CACHE["work"] = work.load(FOLDER)
        _CACHE["engine"] = _CACHE["work"].engine()
    return _CACHE["work"]


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One client's round."""
    import work

    found = prepared()
    client = int(context.node_config["partition-id"])
    if client not in _CACHE:
        _CACHE[client] = found.data(client)
    data, rng = _CACHE[client], work.generator(client, int(message.content["config"]["server-round"]))
    start = {name: array.numpy() for name, array in message.content["arrays"].items()}
    delta = work.train(_CACHE["engine"], found.plan, data, rng, start)
    after = ArrayRecord({name: _array(start[name] + delta[name]) for name in start})
    return Message(RecordDict({"arrays": after, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)


def _array(value: Any) -> Any:
    from flwr.app import Array

    return Array(value)


server_app = ServerApp()


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """FedAvg over all clients."""
    import work

    found = work.load(FOLDER)
    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=found.work.clients,
        min_available_nodes=found.work.clients,
    )
    initial = ArrayRecord({name: _array(value) for name, value in found.initial.items()})
    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=found.work.rounds)
    weights = {name: array.numpy() for name, array in result.arrays.items()}
    work.finish(weights, training=float("nan"), out=OUT)


if __name__ == "__main__":
    clients = prepared().work.clients
    _CACHE.clear()
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
