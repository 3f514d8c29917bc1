"""The pretraining loop: resumable at any moment, deterministic by seed, with a log that can be plotted.

Every micro-batch is drawn from a world seeded by the recipe's seed and the micro-batch's number in the whole run. A
run that was killed and resumed sees the same series as one that was not, and so does a run on another number of
processes: only the order of the sums differs. ``accelerate`` places the work on CPU cores or on GPUs.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn

from trend_common.backbones.base import Batch
from trend_common.backbones.trend import TrendBackbone, TrendConfig, TrendModel
from trend_common.files import replacing, write_text
from trend_server.pretraining.recipe import Recipe
from trend_server.pretraining.world import World

__all__ = ["Run", "pretrain", "pretrain_in_processes"]

_SEED_STRIDE = 10**9
_VALIDATION_SEED = 2**40

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Run:
    """Where and for how long; does not change which weights come out.

    Attributes:
        out: Folder of the model, the log and the training state.
        init: A model to start from instead of random weights.
        save_every_s: Seconds between two checkpoints.
        stop_after: Step at which to stop for now; None goes on to the recipe's end.
        tensorboard: Also write TensorBoard's event files, in ``out/tensorboard``.
        threads: CPU threads of each process.
    """

    out: Path
    init: Path | None = None
    save_every_s: float = 120.0
    stop_after: int | None = None
    tensorboard: bool = False
    threads: int = 1


def validation_loss(model: TrendModel, device: str) -> float:
    """Mean demand loss over a fixed synthetic set that training never draws."""
    backbone, losses = TrendBackbone(model), []
    model.eval()
    with torch.no_grad():
        for offset, freq in enumerate(("D", "W", "M", "D", "W")):
            out = backbone(World(_VALIDATION_SEED + offset).batch(256, freq).to(device))
            assert out.loss_per_sample is not None
            losses.append(float(out.loss_per_sample.mean()))
    model.train()
    return sum(losses) / len(losses)


def pretrain(recipe: Recipe, run: Run, *, progress: Progress = lambda _: None) -> Path:
    """Train from scratch, or go on from the state in ``run.out``; return the model's folder.

    Called in every process of a distributed run; a single process needs no launcher.
    """
    from accelerate import Accelerator

    torch.set_num_threads(run.threads)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if recipe.bf16 else "no",
        gradient_accumulation_steps=1,  # accumulated by hand: a micro-batch has its own seed
    )
    world, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    if (recipe.batch // recipe.micro_batch) % world:
        raise ValueError(f"processes: {recipe.batch // recipe.micro_batch} micro-batches do not divide among {world}")
    micro_batches = recipe.batch // recipe.micro_batch // world
    torch.manual_seed(recipe.seed)
    run.out.mkdir(parents=True, exist_ok=True)
    shape = recipe.model.model_dump()
    model = TrendModel(TrendConfig(**shape)) if run.init is None else TrendModel.from_pretrained(run.init)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    state_path, log_path = run.out / "state.pt", run.out / "training-log.jsonl"
    step, elapsed_before, running = 0, 0.0, 0.0
    if state_path.exists():
        state = torch.load(state_path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, elapsed_before, running = int(state["step"]), float(state["elapsed_s"]), float(state["running"])
    log = []
    if log_path.exists():
        log = [row for line in log_path.read_text("utf-8").splitlines() if (row := json.loads(line))["step"] <= step]
    model.train()
    wrapped, optimiser = accelerator.prepare(model, optimiser)
    started = last_save = time.monotonic()
    board = _board(run) if accelerator.is_main_process else None

    def save() -> None:
        elapsed = elapsed_before + time.monotonic() - started
        row = {
            "step": step,
            "series": step * recipe.batch,
            "elapsed_s": round(elapsed),
            "loss": round(running, 5),
            "validation_loss": round(validation_loss(model, str(device)), 5),
        }
        log.append(row)
        model.save_pretrained(run.out)
        plain = {"model": model.state_dict(), "optimiser": _plain_state(optimiser), "step": step}
        with replacing(state_path) as temporary:
            torch.save({**plain, "elapsed_s": elapsed, "running": running}, temporary)
        write_text(log_path, "".join(json.dumps(entry) + "\n" for entry in log))
        if board is not None:
            for name in ("loss", "validation_loss"):
                board.add_scalar(name, row[name], step)
            board.flush()
        progress(row)

    end = min(recipe.steps, recipe.steps if run.stop_after is None else run.stop_after)
    while step < end:
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        optimiser.zero_grad()
        for micro in range(micro_batches):
            number = recipe.seed * _SEED_STRIDE + (step * micro_batches + micro) * world + rank
            # Two in a row have one shape, so that two processes have equal work.
            drawn = World(number, str(device), shape_seed=number // 2).batch(recipe.micro_batch)
            loss = _loss(wrapped, drawn) / micro_batches
            accelerator.backward(loss)
            running += (float(loss.detach()) * micro_batches - running) * (0.01 if step else 1.0)
        norm = accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
        if torch.isfinite(norm):  # a batch with an overflow is skipped, not learned from
            optimiser.step()
        step += 1
        if accelerator.is_main_process and time.monotonic() - last_save >= run.save_every_s:
            save()
            last_save = time.monotonic()
    if accelerator.is_main_process:
        save()
        write_text(run.out / "recipe.json", recipe.model_dump_json(indent=2) + "\n")
    accelerator.wait_for_everyone()  # the first process may still be writing; none leaves before it is done
    accelerator.end_training()
    return run.out


def _loss(model: Any, batch: Batch) -> torch.Tensor:
    out = model(
        past_values=batch.past_values,
        past_mask=batch.past_mask,
        past_cov=batch.past_cov,
        future_cov=batch.future_cov,
        freq=batch.freq,
        text=batch.text,
        static_ids=batch.static_ids,
        level_hint=batch.level_hint,
        future_values=batch.future_values,
        future_mask=batch.future_mask,
        task="all",
    )
    mean: torch.Tensor = out.loss_per_sample.mean()
    return mean


def _plain_state(optimiser: Any) -> dict[str, Any]:
    inner = getattr(optimiser, "optimizer", optimiser)
    found: dict[str, Any] = inner.state_dict()
    return found


def _board(run: Run) -> Any:
    if not run.tensorboard:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(run.out / "tensorboard")


def _process(rank: int, processes: int, port: int, recipe: Recipe, run: Run) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "" if torch.cuda.is_available() else "true",
    }
    pretrain(recipe, run, progress=lambda row: print(json.dumps(row), flush=True))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def pretrain_in_processes(recipe: Recipe, run: Run, processes: int) -> Path:
    """Train data-parallel on this machine: one process a CPU core or GPU."""
    if processes <= 1:
        return pretrain(recipe, run, progress=lambda row: print(json.dumps(row), flush=True))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(_process, args=(processes, port, recipe, run), nprocs=processes)  # type: ignore[no-untyped-call]
    return run.out
