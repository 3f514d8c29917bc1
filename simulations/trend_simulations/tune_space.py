"""What is searched: for each kind of study the settings that a trial may take, and the ones that it starts from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Literal

from trend_client.finetune import FREEZE, FineTuneSettings, LaunchSettings, to_toml
from trend_common.errors import UsageError
from trend_simulations.settings import DpRecipe

if TYPE_CHECKING:
    import optuna

__all__ = ["KINDS", "Kind", "best_toml", "check_policies", "default_values", "suggest", "to_recipe", "to_settings"]

Kind = Literal["personal", "launch", "federated"]
KINDS: Final[tuple[Kind, ...]] = ("personal", "launch", "federated")

Values = dict[str, Any]


def check_policies(names: tuple[str, ...]) -> tuple[str, ...]:
    """The policies of what is trained that a study chooses among.

    Raises:
        UsageError: One is unknown.
    """
    strange = [name for name in names if name not in FREEZE]
    if strange or not names:
        raise UsageError(
            f"--freeze {','.join(names)} names {strange[0] if strange else 'nothing'}.",
            f"Choose among {', '.join(FREEZE)}.",
        )
    return names


def default_values(kind: Kind, freeze: tuple[str, ...] = ("lora",)) -> Values:
    """The settings as shipped, which are the first trial."""
    if kind == "federated":
        return asdict(DpRecipe())
    if kind == "launch":
        shipped = LaunchSettings()
        return {name: getattr(shipped, name) for name in ("learning_rate", "words_rate", "batch_size", "synonyms")}
    one = FineTuneSettings()
    names = ("rank", "learning_rate", "schedule", "warmup", "weight_decay", "batch_size", "steps")
    kept = {name: getattr(one, name) for name in (*names, "drop_covariates", "jitter_level", "synonyms")}
    policy = one.freeze if one.freeze in freeze else freeze[0]
    return {"freeze": policy, **kept, **({"dropout": one.dropout} if _has_dropout(policy) else {})}


def suggest(trial: optuna.Trial, kind: Kind, freeze: tuple[str, ...] = ("lora",)) -> Values:
    """A trial's settings."""
    if kind == "federated":
        return {
            "rounds": trial.suggest_int("rounds", 5, 40, step=5),
            "clip": trial.suggest_float("clip", 0.002, 0.2, log=True),
            "server_lr": trial.suggest_float("server_lr", 0.001, 0.05, log=True),
            "rank": trial.suggest_categorical("rank", [1, 2, 4, 8]),
            "windows_per_series": trial.suggest_categorical("windows_per_series", [1, 2, 4, 8]),
        }
    if kind == "launch":
        return {
            "learning_rate": trial.suggest_float("learning_rate", 3e-4, 3e-2, log=True),
            "words_rate": trial.suggest_float("words_rate", 0.3, 10, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [32, 64, 128]),
            "synonyms": trial.suggest_float("synonyms", 0.0, 0.5),
        }
    policy = trial.suggest_categorical("freeze", list(freeze))
    values = {
        "freeze": policy,
        "rank": trial.suggest_categorical("rank", [1, 2, 4, 8]),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True),
        "schedule": trial.suggest_categorical("schedule", ["constant", "linear", "cosine"]),
        "warmup": trial.suggest_float("warmup", 0.0, 0.2),
        "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.3),
        "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64]),
        "steps": trial.suggest_int("steps", 20, 200, step=20),
        "drop_covariates": trial.suggest_float("drop_covariates", 0.0, 0.3),
        "jitter_level": trial.suggest_float("jitter_level", 0.0, 0.3),
        "synonyms": trial.suggest_float("synonyms", 0.0, 0.5),
    }
    if _has_dropout(policy):
        values["dropout"] = trial.suggest_float("dropout", 0.0, 0.3)
    return values


def to_settings(kind: Kind, values: Values) -> FineTuneSettings:
    """A trial's settings as those of fine-tuning; what the study does not search stays as shipped."""
    if kind == "launch":
        return FineTuneSettings(launch=LaunchSettings(**values))
    return FineTuneSettings(**values)


def to_recipe(values: Values) -> DpRecipe:
    """A trial's settings as a federation's recipe."""
    return DpRecipe(**values)


def _recipe_toml(recipe: DpRecipe, *, epsilon: float, delta: float) -> str:
    """A recipe as lines for ``server.toml``."""
    import tomli_w

    lines = {
        "rounds": recipe.rounds,
        "rank": recipe.rank,
        "windows_per_series": recipe.windows_per_series,
        "clip": recipe.clip,
        "learning_rate": recipe.server_lr,
        "epsilon": epsilon,
        "delta": delta,
    }
    return tomli_w.dumps(lines)


def best_toml(kind: Kind, values: Values, *, epsilon: float, delta: float) -> str:
    """The best trial as the file that the commands read: the client's settings, or lines of ``server.toml``."""
    if kind == "federated":
        return _recipe_toml(to_recipe(values), epsilon=epsilon, delta=delta)
    return to_toml(to_settings(kind, values))


def _has_dropout(policy: str) -> bool:
    return policy not in ("head", "full")
