"""Retailers of a secure federation, each with its own key and connection, as threads of one process.

Run: secure_clients.py FOLDER INVITE... The delta of a round is all ones times the round's number.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from trend_client.app import answer_secure_rounds
from trend_client.secure import SecureRounds
from trend_common.flower.enrol_client import enrol
from trend_common.flower.environment import prepare, quiet_logs
from trend_common.flower.invite import Invite
from trend_common.flower.keys import load_or_create_key
from trend_common.flower.node import NodeEvent, run_node
from trend_common.flower.records import reply, tensors_to_bytes, unpack
from trend_common.protocol import AdoptOrder, AdoptReply, DescribeReply, FederationPlan, TrainOrder
from trend_common.secagg.fixedpoint import FIXED_KEY


def serve(home: Path, invite_path: Path) -> None:
    """Join, take part, leave."""
    home.mkdir(parents=True)
    plans: dict[str, FederationPlan] = {}
    stop = threading.Event()
    invite = Invite.load(invite_path)
    key = load_or_create_key(home / "client.key")
    enrol(invite, key.public_key())
    (home / "ca.pem").write_text(invite.ca_pem)

    def sealed(order: TrainOrder, adapter: dict[str, Any]) -> bytes:
        plan = plans[order.federation]
        assert plan.secure_aggregation is not None
        one = round(order.round * plan.secure_aggregation.levels / plan.secure_aggregation.range)
        return tensors_to_bytes({FIXED_KEY: np.full(plan.adapter.parameters, one, np.uint32)})

    session: Any = SimpleNamespace(
        home=SimpleNamespace(federation=lambda name: home / name),
        agreed=lambda order: plans[order.federation],
        sealed=sealed,
        say=lambda event: print(home.name, event.text, flush=True),
        note=lambda kind, *_, **__: sys.stdout.write(f"{home.name} sends {kind}\n"),
    )
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, _: Context) -> Message:
        plan, _frozen = unpack(message.content, FederationPlan, tensors=True)
        plans[plan.federation] = plan
        return reply(message, DescribeReply(answer="accepted", bucket="S"))

    @app.query("adopt")
    def adopt(message: Message, _: Context) -> Message:
        if unpack(message.content, AdoptOrder, tensors=True)[0].final:
            stop.set()
        return reply(message, AdoptReply())

    answer_secure_rounds(app, session, SecureRounds(session, key))

    def show(event: NodeEvent) -> None:
        print(home.name, event.kind, event.text, event.error or "", flush=True)

    run_node(
        app,
        server=invite.server,
        ca_pem_path=home / "ca.pem",
        private_key=key,
        expected_fab_hash=invite.fab_sha256,
        stop=stop,
        on_event=show,
        retry=(0.2, 1.0),
    )


def main() -> None:
    """All of them, to the end."""
    folder = Path(sys.argv[1])
    prepare(folder / "flower")
    quiet_logs()
    threads = [threading.Thread(target=serve, args=(folder / Path(p).stem, Path(p))) for p in sys.argv[2:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
