"""The pretraining loop: resumable at any moment, deterministic by seed, with a log that can be plotted.

Every step draws its batch from a world seeded by (seed, step), so a run that was killed and resumed sees the same
series as one that was not. The learning rate warms up, stays, and falls linearly over the last part of the time that
was given (warmup-stable-decay: Hu et al. 2024, arXiv:2404.06395), so that a longer run can start from a shorter one.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from trend_common.backbones.trend import TrendBackbone, TrendConfig, TrendModel
from trend_common.files import replacing, write_text
from trend_server.pretraining.world import World

__all__ = ["PretrainSettings", "pretrain"]

_SEED_STRIDE = 10_000_019
_VALIDATION_SEED = 2**40


@dataclass(frozen=True)
class PretrainSettings:
    """How to pretrain.

    Attributes:
        out: Folder of the model, the log and the training state.
        minutes: Time for the whole run, earlier parts included.
        batch: Series a step.
        learning_rate: Largest step size of AdamW.
        seed: Of the initial weights and of the world.
        decay: Last part of the time, in which the learning rate falls to 2 % of its largest value.
        device: "cpu" or "cuda".
        threads: CPU threads.
        warmup: Steps until the learning rate is reached.
        init: A model to start from instead of random weights.
        save_every_s: Seconds between two checkpoints.
    """

    out: Path
    minutes: float = 60.0
    batch: int = 128
    learning_rate: float = 1.5e-3
    seed: int = 0
    decay: float = 0.35
    device: str = "cpu"
    threads: int = 1
    warmup: int = 200
    init: Path | None = None
    save_every_s: float = 120.0


def _learning_rate(settings: PretrainSettings, step: int, elapsed_s: float) -> float:
    done = min(elapsed_s / 60 / settings.minutes, 1.0)
    falling = min((1 - done) / settings.decay, 1.0)
    return settings.learning_rate * min((step + 1) / settings.warmup, 1.0) * (0.02 + 0.98 * falling)


def _validation_loss(backbone: TrendBackbone, device: str) -> float:
    """Mean loss over a fixed synthetic set that training never draws."""
    losses = []
    with torch.no_grad():
        for offset, freq in enumerate(("D", "W", "M", "D", "W")):
            batch = World(_VALIDATION_SEED + offset).batch(256, freq).to(device)
            out = backbone(batch)
            assert out.loss_per_sample is not None
            losses.append(float(out.loss_per_sample.mean()))
    return sum(losses) / len(losses)


def pretrain(settings: PretrainSettings) -> Path:
    """Train from scratch, or go on from the state in ``settings.out``; return the model's folder."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    settings.out.mkdir(parents=True, exist_ok=True)
    fresh = TrendModel(TrendConfig()) if settings.init is None else TrendModel.from_pretrained(settings.init)
    model = fresh.to(settings.device).train()
    backbone = TrendBackbone(model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    state_path = settings.out / "state.pt"
    step, elapsed_before = 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, map_location=settings.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, elapsed_before = int(state["step"]), float(state["elapsed_s"])
    start, last_save, running = time.monotonic(), time.monotonic(), None
    log: list[dict[str, Any]] = []
    log_path = settings.out / "training-log.jsonl"
    if log_path.exists():
        log = [json.loads(line) for line in log_path.read_text("utf-8").splitlines()]

    def save(elapsed_s: float) -> None:
        row = {
            "elapsed_s": round(elapsed_s),
            "step": step,
            "series": step * settings.batch,
            "loss": round(running or 0.0, 5),
            "validation_loss": round(_validation_loss(backbone, settings.device), 5),
        }
        log.append(row)
        model.save_pretrained(settings.out)
        with replacing(state_path) as temporary:
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "elapsed_s": elapsed_s,
                },
                temporary,
            )
        write_text(log_path, "".join(json.dumps(entry) + "\n" for entry in log))
        print(json.dumps(row), flush=True)

    while True:
        elapsed = elapsed_before + time.monotonic() - start
        if elapsed >= settings.minutes * 60:
            break
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(settings, step, elapsed)
        world = World(settings.seed * _SEED_STRIDE + step)
        batch = world.batch(settings.batch).to(settings.device)
        with torch.autocast(settings.device, dtype=torch.bfloat16):
            out = backbone(batch)
        assert out.loss_per_sample is not None
        loss = out.loss_per_sample.mean()
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):  # a batch with an overflow is skipped, not learned from
            optimiser.step()
        step += 1
        value = loss.item()
        running = value if running is None else 0.99 * running + 0.01 * value
        if time.monotonic() - last_save >= settings.save_every_s:
            save(elapsed)
            last_save = time.monotonic()
    save(elapsed)
    description = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
    write_text(settings.out / "settings.json", json.dumps(description, indent=2) + "\n")
    return settings.out


def main() -> None:
    """``python -m trend_server.pretraining.loop --out FOLDER --minutes M [--init FOLDER] [--threads N] ...``."""
    import argparse

    parser = argparse.ArgumentParser(description="Pretrain the backbone; started again, it goes on.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=float, default=0.35)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    pretrain(PretrainSettings(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
