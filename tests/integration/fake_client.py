"""A client process for tests: joins with an invitation and answers with numbers that need no model.

Run: fake_client.py HOME INVITE [SECONDS_PER_ROUND]. It writes one line for each train order to HOME/orders.txt, keeps
the bytes it sent for each order (as the real client's ledger does) and prints the events.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from trend_common.errors import TrendError
from trend_common.files import write_bytes
from trend_common.flower.enrol_client import enrol
from trend_common.flower.environment import prepare, quiet_logs
from trend_common.flower.invite import Invite
from trend_common.flower.keys import load_or_create_key
from trend_common.flower.node import NodeEvent, run_node
from trend_common.flower.records import reply, tensors_to_bytes, unpack
from trend_common.protocol import (
    AdoptOrder,
    AdoptReply,
    DescribeReply,
    FederationPlan,
    TrainOrder,
    TrainReply,
)


def build(home: Path, seconds: float, stop: threading.Event) -> ClientApp:
    """The app: the delta of a round is all ones times the round's number."""
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, _: Context) -> Message:
        unpack(message.content, FederationPlan, tensors=True)
        return reply(message, DescribeReply(answer="accepted", bucket="S"))

    @app.train()
    def train(message: Message, _: Context) -> Message:
        order, adapter = unpack(message.content, TrainOrder, tensors=True)
        key = hashlib.sha256(order.canonical().encode()).hexdigest()
        sealed = home / f"sealed-{order.round}-{key[:16]}"
        with (home / "orders.txt").open("a") as log:
            log.write(f"{order.round} {key[:16]} {'again' if sealed.exists() else 'new'}\n")
        if not sealed.exists():
            time.sleep(seconds)
            tensors = {name: np.full(value.shape, order.round, np.float32) for name, value in adapter.items()}
            write_bytes(sealed, tensors_to_bytes(tensors))
        header = TrainReply(answer="delta", federation=order.federation, round=order.round)
        return reply(message, header, sealed.read_bytes())

    @app.query("adopt")
    def adopt(message: Message, _: Context) -> Message:
        order, _adapter = unpack(message.content, AdoptOrder, tensors=True)
        (home / "adopted.txt").write_text(order.adapter_sha256)
        if order.final:
            stop.set()
        return reply(message, AdoptReply())

    return app


def main() -> int:
    """Join, serve, leave."""
    home, invite_path = Path(sys.argv[1]), Path(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    home.mkdir(parents=True, exist_ok=True)
    prepare(home / "flower")
    quiet_logs()
    stop = threading.Event()

    def show(event: NodeEvent) -> None:
        print(f"{event.kind}: {event.text} {event.error or ''}", flush=True)

    try:
        invite = Invite.load(invite_path)
        key = load_or_create_key(home / "client.key")
        if os.environ.get("FAKE_SKIP_ENROL") != "1":
            enrol(invite, key.public_key())
        (home / "ca.pem").write_text(invite.ca_pem)
        started = time.monotonic()
        run_node(
            build(home, seconds, stop),
            server=os.environ.get("FAKE_SERVER", invite.server),
            ca_pem_path=Path(os.environ.get("FAKE_CA", home / "ca.pem")),
            private_key=key,
            expected_fab_hash=invite.fab_sha256,
            stop=stop,
            on_event=show,
            memory=home / "node.json",
            retry=(0.2, 1.0),
        )
        print(f"done after {time.monotonic() - started:.1f} s", flush=True)
        status = Path("/proc/self/status")  # the peak of this process's memory, where the system tells it
        if status.exists():
            print(*(line for line in status.read_text().splitlines() if line.startswith("VmHWM")), flush=True)
    except TrendError as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
