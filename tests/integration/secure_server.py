"""The real server with a secure plan of two small tensors. Run: secure_server.py HOME PORT ROUNDS JSON."""

from __future__ import annotations

import sys
from pathlib import Path

from fake_server import tiny_plan

from trend_common.protocol import FederationPlan, SecureAggregationPlan
from trend_server.app import Service, serve
from trend_server.checkpoints import Announcement
from trend_server.home import ServerHome
from trend_server.settings import ServerSettings, load_settings


def secure_plan(settings: ServerSettings) -> Announcement:
    """The tiny plan, summed."""
    made = tiny_plan(settings)
    rules = SecureAggregationPlan(min_clients=3, max_clients=16, threshold=0.5, range=4.0)
    changed = {"wire": "fixed32", "secure_aggregation": rules.model_dump()}
    plan = FederationPlan.model_validate({**made.plan.model_dump(), **changed})
    return Announcement(plan, made.initial, made.frozen)


def main() -> None:
    """Serve until the federation is done."""
    home, port, rounds, out = sys.argv[1:5]
    where = ServerHome(Path(home)).create()
    asked = {
        "rounds": int(rounds),
        "round_timeout": "20s",
        "private": False,
        "wire": "float32",
        "secure_aggregation": True,
        "update": "gradient",
        "optimiser": "sgd",
        "learning_rate": 1.0,
    }
    service = Service(
        home=where,
        settings=load_settings(where.settings_path, asked),
        host="127.0.0.1",
        port=int(port),
        exit_when_done=True,
        adopt_timeout=8.0,
        json_path=Path(out),
        plan_of=secure_plan,
    )
    serve(service)


if __name__ == "__main__":
    main()
