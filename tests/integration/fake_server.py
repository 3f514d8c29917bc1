"""The real server with a plan of two small tensors. Run: fake_server.py HOME PORT ROUNDS MIN_CLIENTS TIMEOUT JSON."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from trend_common.console import stderr
from trend_common.errors import TrendError
from trend_common.protocol import AdapterPlan, FederationPlan
from trend_common.tensors import Tensors, TensorSpec, tensors_sha256
from trend_server.app import Service, serve
from trend_server.checkpoints import Announcement
from trend_server.home import ServerHome
from trend_server.settings import ServerSettings, load_settings


def tiny_plan(settings: ServerSettings) -> Announcement:
    """Two tensors to train, one frozen; the frozen one is random, as the real one is."""
    initial: Tensors = {"lora_B.weight": np.zeros((4, 2), np.float32), "lora_B.bias": np.zeros(3, np.float32)}
    frozen: Tensors = {"lora_A.weight": np.random.default_rng().normal(size=(2, 4)).astype(np.float32)}
    plan = FederationPlan(
        federation=settings.federation,
        backbone=settings.backbone,
        backbone_sha256="b" * 64,
        adapter=AdapterPlan(
            rank=settings.rank,
            alpha=4,
            targets=("layer",),
            tensors=tuple(TensorSpec(name=name, shape=initial[name].shape) for name in sorted(initial)),
            frozen=tuple(TensorSpec(name=name, shape=value.shape) for name, value in frozen.items()),
            frozen_sha256=tensors_sha256(frozen),
        ),
        freq=settings.freq,
        horizon=settings.horizon,
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


def main() -> int:
    """Serve until the federation is done."""
    home, port, rounds, minimum, timeout, out = sys.argv[1:7]
    try:
        where = ServerHome(Path(home)).create()
        settings = load_settings(
            where.settings_path,
            {
                "rounds": int(rounds),
                "min_clients": int(minimum),
                "round_timeout": timeout,
                "private": False,
                "wire": "float32",
                "update": "gradient",
                "optimiser": "sgd",
                "learning_rate": 1.0,
            },
        )
        serve(
            Service(
                home=where,
                settings=settings,
                host="127.0.0.1",
                port=int(port),
                exit_when_done=True,
                adopt_timeout=8.0,
                json_path=Path(out),
                plan_of=tiny_plan,
            )
        )
    except TrendError as error:
        stderr.print(f"Error: {error}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
