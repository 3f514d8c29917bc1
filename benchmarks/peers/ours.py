"""This project's simulation: the server's loop and every client's app, policy and home, in one process.

ours.py WORK OUT
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from work import arguments, finish

from trend_server.checkpoints import Announcement
from trend_simulations.federation import federate_in_process, members
from trend_simulations.sources import Retailer


def main() -> None:
    prepared, out = arguments()
    engine = prepared.engine()
    retailers = [Retailer(f"retailer-{n}", prepared.panel(n)) for n in range(prepared.work.clients)]
    announced = Announcement(prepared.plan, prepared.initial, prepared.frozen)
    with tempfile.TemporaryDirectory(prefix="trend-bench-") as folder:
        joined = members(retailers, engine, prepared.plan, Path(folder), seed=0)
        outcome = federate_in_process(joined, announced, server_lr=1.0)
        for member in joined:
            member.ledger.close()
    finish(outcome.adapter.tensors, training=float("nan"), out=out)


if __name__ == "__main__":
    main()
