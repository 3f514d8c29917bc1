"""The pretraining loop: resumable at any moment, deterministic by seed, with a log that can be plotted.

Every micro-batch is drawn by its number in the whole run, from the recipe's seed. A run that was killed and resumed
sees the same series as one that was not, and so does a run on another number of processes: only the order of the sums
differs. ``accelerate`` places the work on CPU cores or on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from trend_server.pretraining.keeper import Keeper, Watch
from trend_server.pretraining.pupil import Pupil, fitted, make_pupil
from trend_server.pretraining.recipe import Recipe
from trend_server.pretraining.sources import make_panels, make_source
from trend_server.pretraining.state import Shelf, TrainingLog

__all__ = ["Run", "pretrain"]

_SEED_STRIDE = 10**9


@dataclass(frozen=True)
class Run:
    """Where and for how long; does not change which weights come out.

    Attributes:
        out: Folder of the model, the log and the training state.
        save_every_s: Seconds between two checkpoints.
        stop_after: Step at which to stop for now; None goes on to the recipe's end.
        tensorboard: Also write TensorBoard's event files, in ``out/tensorboard``.
        threads: CPU threads of each process.
        device: "cpu" or "cuda".
    """

    out: Path
    save_every_s: float = 120.0
    stop_after: int | None = None
    tensorboard: bool = False
    threads: int = 1
    device: str = "cpu"

    def end(self, recipe: Recipe) -> int:
        """The step after the last one to take now."""
        return recipe.steps if self.stop_after is None else min(recipe.steps, self.stop_after)


def pretrain(
    recipe: Recipe, run: Run, *, watch: Watch | None = None, stop: Callable[[], bool] = lambda: False
) -> Path:
    """Train from the recipe's start, or go on from the state in ``run.out``; return the model's folder.

    Called in every process of a distributed run; a single process needs no launcher.

    Args:
        recipe: What to train, and how.
        run: Where.
        watch: Told of steps and checkpoints, in the first process.
        stop: Asked after each step; once it says so in any process, all end with a checkpoint.

    Raises:
        UsageError: The recipe names what cannot be had, or ``run.out`` holds another recipe's state.
        ValueError: The micro-batches do not divide among the processes.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    torch.set_num_threads(run.threads)
    accelerator = Accelerator(
        cpu=run.device == "cpu",
        mixed_precision="bf16" if recipe.bf16 else "no",
        gradient_accumulation_steps=1,  # accumulated by hand: a micro-batch has its own seed
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=recipe.backbone is not None)],
    )
    world, rank, device = accelerator.num_processes, accelerator.process_index, str(accelerator.device)
    if recipe.micro_batches % world:
        raise ValueError(f"processes: {recipe.micro_batches} micro-batches do not divide among {world}")
    micro_batches = recipe.micro_batches // world
    torch.manual_seed(recipe.seed)
    pupil = make_pupil(recipe)
    panels = make_panels(recipe)
    source = make_source(recipe, panels)
    optimiser = _optimiser(pupil, recipe)
    shelf = Shelf(run.out, recipe, pupil.origin)
    saved = shelf.load()
    step, running = 0, 0.0
    if saved is not None:
        pupil.load(saved.model)
        optimiser.load_state_dict(saved.optimiser)
        step, running = saved.step, saved.running
    pupil.backbone.eval()  # no dropout: which numbers are drawn is decided by the micro-batches alone
    wrapped, optimiser = accelerator.prepare(pupil.backbone, optimiser)
    keeper = None
    if accelerator.is_main_process:
        log = TrainingLog(run.out, step, tensorboard=run.tensorboard)
        keeper = Keeper(pupil, optimiser, panels, shelf, log, watch or Watch(), run.save_every_s, saved)

    end = run.end(recipe)
    while step < end:
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        optimiser.zero_grad()
        for micro in range(micro_batches):
            number = recipe.seed * _SEED_STRIDE + (step * micro_batches + micro) * world + rank
            batch = fitted(source.draw(number, recipe.micro_batch, device), pupil.backbone)
            loss = wrapped(batch).loss_per_sample.mean() / micro_batches
            accelerator.backward(loss)
            running += (float(loss.detach()) * micro_batches - running) * (0.01 if step else 1.0)
        norm = accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
        if torch.isfinite(norm):  # a batch with an overflow is skipped, not learned from
            optimiser.step()
        step += 1
        if stop():
            accelerator.set_trigger()
        stopping = accelerator.check_trigger()  # all processes stop at the same step
        if keeper is not None:
            keeper.stepped(step, running, last=stopping or step == end)
        if stopping:
            break
    accelerator.wait_for_everyone()  # the first process may still be writing; none leaves before it is done
    accelerator.end_training()
    return run.out


def _optimiser(pupil: Pupil, recipe: Recipe) -> torch.optim.AdamW:
    trained = [value for value in pupil.module.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
