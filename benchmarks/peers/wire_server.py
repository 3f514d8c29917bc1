"""This project's server with an adapter of the shipped size and no work in a round.

wire_server.py HOME PORT ROUNDS CLIENTS OUT NAME...: invitations for the named clients lie in HOME/invites.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np

from trend_common.protocol import AdapterPlan, FederationPlan
from trend_common.tensors import Tensors, TensorSpec, tensors_sha256
from trend_server.app import Service, serve
from trend_server.certificates import ensure_authority
from trend_server.checkpoints import Announcement
from trend_server.enrolment import write_invite
from trend_server.home import ServerHome
from trend_server.roster import Roster
from trend_server.settings import ServerSettings, load_settings

PARAMETERS = 9832
"""Of B of rank 2 on all linear layers of the shipped backbone."""


def plan_of(settings: ServerSettings) -> Announcement:
    """One tensor to train and one frozen."""
    initial: Tensors = {"lora_B.weight": np.zeros((PARAMETERS // 2, 2), np.float32)}
    frozen: Tensors = {"lora_A.weight": np.ones((2, PARAMETERS // 2), np.float32)}
    plan = FederationPlan(
        federation=settings.federation,
        backbone=settings.backbone,
        backbone_sha256="b" * 64,
        adapter=AdapterPlan(
            rank=2,
            alpha=4,
            targets=("layer",),
            tensors=tuple(TensorSpec(name=name, shape=value.shape) for name, value in initial.items()),
            frozen=tuple(TensorSpec(name=name, shape=value.shape) for name, value in frozen.items()),
            frozen_sha256=tensors_sha256(frozen),
        ),
        freq="D",
        horizon=28,
        context=56,
        rounds=settings.rounds,
        steps=1,
        windows_per_series=settings.windows_per_series,
        launch_share=settings.launch_share,
        update=settings.update,
        local_learning_rate=0,
        proximal_mu=0,
        privacy=None,
        wire="float32",
    )
    return Announcement(plan, initial, frozen)


def main() -> None:
    """Serve until the federation is done."""
    home, port, rounds, clients, out, *names = sys.argv[1:]
    where = ServerHome(Path(home)).create()
    authority, roster = ensure_authority(where.tls), Roster(where.roster_path)
    folder = where.root / "invites"
    folder.mkdir()
    for name in names:
        write_invite(
            roster,
            authority,
            name=name,
            server=f"127.0.0.1:{port}",
            lifetime=timedelta(hours=1),
            out=folder / f"{name}.invite",
        )
    (folder / "complete").touch()
    settings = load_settings(
        where.settings_path,
        {
            "rounds": int(rounds),
            "min_clients": int(clients),
            "round_timeout": "30m",
            "joins_at_once": int(clients),
            "joins_per_minute": 60_000.0,
            "private": False,
            "wire": "float32",
            "update": "gradient",
            "optimiser": "sgd",
            "learning_rate": 1.0,
        },
    )
    summary = where.root / "summary.json"
    serve(
        Service(
            home=where,
            settings=settings,
            host="127.0.0.1",
            port=int(port),
            exit_when_done=True,
            adopt_timeout=20.0,
            json_path=summary,
            plan_of=plan_of,
        )
    )
    found = json.loads(summary.read_text())
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    Path(out).write_text(
        json.dumps(
            {
                "round_s": [one["seconds"] for one in found["rounds"]],
                "server_cpu_s": used.ru_utime + used.ru_stime,
                "server_memory_mb": int(peak.split()[1]) / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
