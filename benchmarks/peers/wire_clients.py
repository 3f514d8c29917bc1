"""Stub clients over real TLS, each with its own key and connection, as threads of one process.

wire_clients.py FOLDER INVITE...: every answer is a tensor of zeros of the right size.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from trend_common.errors import ConnectionFailure
from trend_common.flower.enrol_client import enrol
from trend_common.flower.environment import prepare, quiet_logs
from trend_common.flower.invite import Invite
from trend_common.flower.keys import load_or_create_key
from trend_common.flower.node import NodeEvent, run_node
from trend_common.flower.records import reply, tensors_to_bytes, unpack
from trend_common.protocol import AdoptOrder, AdoptReply, DescribeReply, FederationPlan, TrainOrder, TrainReply


def build(stop: threading.Event) -> ClientApp:
    """The app of one client."""
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, _: Context) -> Message:
        unpack(message.content, FederationPlan, tensors=True)
        return reply(message, DescribeReply(answer="accepted", bucket="S"))

    @app.train()
    def train(message: Message, _: Context) -> Message:
        order, adapter = unpack(message.content, TrainOrder, tensors=True)
        answer = {name: np.zeros(value.shape, np.float32) for name, value in adapter.items()}
        header = TrainReply(answer="delta", federation=order.federation, round=order.round)
        return reply(message, header, tensors_to_bytes(answer))

    @app.query("adopt")
    def adopt(message: Message, _: Context) -> Message:
        order, _adapter = unpack(message.content, AdoptOrder, tensors=True)
        if order.final:
            stop.set()
        return reply(message, AdoptReply())

    return app


def serve(home: Path, path: Path) -> None:
    """Join, answer, leave."""
    home.mkdir(parents=True)
    invite, stop = Invite.load(path), threading.Event()
    key = load_or_create_key(home / "client.key")
    while True:
        try:
            enrol(invite, key.public_key())
            break
        except ConnectionFailure:  # a server lets so many join in a minute; the rest come later
            time.sleep(5.0)
    (home / "ca.pem").write_text(invite.ca_pem)

    def show(event: NodeEvent) -> None:
        if event.kind in ("failed", "refused"):
            sys.stdout.write(f"{home.name}: {event.kind} {event.text}\n")

    run_node(
        build(stop),
        server=invite.server,
        ca_pem_path=home / "ca.pem",
        private_key=key,
        expected_fab_hash=invite.fab_sha256,
        stop=stop,
        on_event=show,
        memory=home / "node.json",
    )


def main() -> None:
    """All clients of this process."""
    folder, invites = Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]
    prepare(folder / "flower")
    quiet_logs()
    threads = [threading.Thread(target=serve, args=(folder / path.stem, path)) for path in invites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
