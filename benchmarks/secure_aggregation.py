"""What a round of secure aggregation costs beside a plain round of the same adapter: bytes and CPU time.

    python benchmarks/secure_aggregation.py [--clients 10 30 100] [--dropouts 0.1] [--json FILE]

The real protocol of server and clients in one process; nobody trains, each delta is drawn at random. Bytes are
those of the messages' contents, up and down, for one client that stays to the end; Flower adds about a kilobyte to a
message. CPU seconds are a client's own in the median, and the server's without the copying of messages that only a
simulation does. "norm" is the bytes of the secure round over those of a plain round (int8 up, float32 down). With
dropouts, that share of the clients goes after dealing its shares, the dearest moment for the server.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from trend_client.app import answer_secure_rounds
from trend_client.secure import SecureRounds
from trend_common import __version__
from trend_common.errors import TrendError
from trend_common.files import write_json
from trend_common.flower.inprocess import InProcessGrid
from trend_common.flower.keys import new_private_key, public_key_text
from trend_common.flower.records import reply, tensors_to_bytes
from trend_common.privacy.noise import SecureGenerator
from trend_common.protocol import BODY_KEY, AdoptReply, DescribeReply, FederationPlan
from trend_common.secagg.fixedpoint import FIXED_KEY
from trend_common.secagg.messages import ACTION_MASKED, SECURE_ACTIONS, RosterEntry
from trend_common.tensors import Tensors, encode_int8
from trend_server.checkpoints import Announcement
from trend_server.federation import LoopSettings, federate
from trend_server.plans import make_plan
from trend_server.settings import ServerSettings


class Client:
    """A member that answers for real, but for its training."""

    def __init__(self, root: Path, plan: FederationPlan) -> None:
        self.key = new_private_key()
        rng = np.random.default_rng(0)
        size = plan.adapter.parameters
        payload = tensors_to_bytes({FIXED_KEY: rng.integers(-(2**14), 2**14, size).astype(np.uint32)})
        session: Any = SimpleNamespace(
            home=SimpleNamespace(federation=lambda name: root / name),
            agreed=lambda order: plan,
            sealed=lambda order, adapter: payload,
            say=lambda event: None,
            note=lambda *_, **__: None,
        )
        self.app = ClientApp()

        @self.app.query("describe")  # type: ignore[untyped-decorator]
        def describe(message: Message, _: Context) -> Message:
            return reply(message, DescribeReply(answer="accepted", bucket="S"))

        @self.app.query("adopt")  # type: ignore[untyped-decorator]
        def adopt(message: Message, _: Context) -> Message:
            return reply(message, AdoptReply())

        answer_secure_rounds(self.app, session, SecureRounds(session, self.key))


class MeasuringGrid(InProcessGrid):
    """Adds up each client's bytes and CPU time, and the time spent in copying."""

    def __init__(self, clients: list[Client], gone: set[int]) -> None:
        super().__init__(lambda node: clients[node].app, range(len(clients)), raise_errors=False)
        self.up: dict[int, int] = defaultdict(int)
        self.down: dict[int, int] = defaultdict(int)
        self.busy: dict[int, float] = defaultdict(float)
        self.outside = 0.0
        self._gone = gone

    def _answer(self, message: Message) -> Message:
        started = time.process_time()
        node, action = message.metadata.dst_node_id, message.metadata.message_type
        app, secure = self._make_app(node), action in SECURE_ACTIONS
        spent = 0.0

        def timed(own: Message, context: Context) -> Message:
            nonlocal spent
            if node in self._gone and action == ACTION_MASKED:
                raise RuntimeError("gone")
            before = time.process_time()
            answer: Message = app(own, context)
            spent = time.process_time() - before
            return answer

        self._apps[node] = timed  # type: ignore[assignment]
        self._contexts.setdefault(node, Context(1, node, {}, {}, {}))  # type: ignore[arg-type]
        answer = super()._answer(message)
        if secure:
            self.busy[node] += spent
            self.down[node] += content_bytes(message)
            self.up[node] += 0 if answer.has_error() else content_bytes(answer)
        self.outside += time.process_time() - started
        return answer


def content_bytes(message: Message) -> int:
    """Bytes of a message's record."""
    record = message.content[BODY_KEY]
    assert isinstance(record, ConfigRecord)
    return sum(len(value) for value in record.values() if isinstance(value, str | bytes))


def plain_bytes(announced: Announcement) -> tuple[int, int]:
    """What a plain round of the same adapter sends up and down for a client."""
    down = len(tensors_to_bytes(announced.initial))
    return len(tensors_to_bytes(encode_int8(announced.initial, SecureGenerator()))), down


def measured(announced: Announcement, clients: int, dropouts: float) -> dict[str, Any]:
    """One round."""
    plan = announced.plan
    with tempfile.TemporaryDirectory() as folder:
        joined = [Client(Path(folder) / str(number), plan) for number in range(clients)]
        gone = set(range(clients - round(dropouts * clients), clients))
        roster = {n: RosterEntry(name=f"c{n}", public_key=public_key_text(one.key)) for n, one in enumerate(joined)}
        settings = LoopSettings(min_clients=3, round_timeout=None, patience=0.0, optimiser="none")
        initial: Tensors = announced.initial
        started = time.process_time()
        with MeasuringGrid(joined, gone) as grid:
            result = federate(grid, plan, initial, announced.frozen, settings, directory=lambda: roster)
        total = time.process_time() - started
    stayed = [node for node in range(clients) if node not in gone]
    assert result.history[0].participants == len(stayed)
    plain_up, plain_down = plain_bytes(announced)
    up = statistics.median(grid.up[node] for node in stayed)
    down = statistics.median(grid.down[node] for node in stayed)
    return {
        "clients": clients,
        "dropouts": len(gone),
        "bytes_up": up,
        "bytes_down": down,
        "plain_up": plain_up,
        "plain_down": plain_down,
        "norm": round((up + down) / (plain_up + plain_down), 3),
        "client_s": round(statistics.median(grid.busy[node] for node in stayed), 4),
        "server_s": round(total - grid.outside, 4),
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--dropouts", type=float, default=0.1, help="share that goes after dealing its shares")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        announced = make_plan(ServerSettings(backbone=options.backbone, rounds=1, secure_aggregation=True))
    except TrendError as error:
        print(error)
        return int(error.exit_code)
    parameters = announced.plan.adapter.parameters
    print(f"{parameters} numbers in the adapter, threshold {announced.plan.secure_aggregation.threshold:g}")  # type: ignore[union-attr]
    print("clients  gone  up kB  down kB  plain kB  norm  client s  server s")
    rows = []
    for clients in options.clients:
        for dropouts in dict.fromkeys((0.0, options.dropouts)):
            row = measured(announced, clients, dropouts)
            rows.append(row)
            plain = (row["plain_up"] + row["plain_down"]) / 1000
            print(
                f"{clients:7d} {row['dropouts']:5d} {row['bytes_up'] / 1000:6.1f} {row['bytes_down'] / 1000:8.1f} "
                f"{plain:9.1f} {row['norm']:5.2f} {row['client_s']:9.3f} {row['server_s']:9.3f}",
                flush=True,
            )
    if options.json is not None:
        write_json(
            options.json,
            {
                "schema": 1,
                "version": __version__,
                "benchmark": "secure_aggregation",
                "parameters": parameters,
                "rows": rows,
            },
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
