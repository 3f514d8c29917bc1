"""Where a core's files come from: a folder, or a model hub through transformers' own client and cache.

Only safetensors are read, never pickles, and no code that comes with a model is run. ``HF_HUB_OFFLINE=1`` keeps
everything to folders and what is in the cache.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import huggingface_hub
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig

from trend_common.backbones.foreign import COMPOSITE, ForeignNetwork
from trend_common.errors import UsageError

__all__ = ["Source", "composite_folder", "load_body", "read_config"]

_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Source:
    """A model by folder or by its name on the hub.

    Attributes:
        name: What the user wrote, without the revision.
        revision: Branch, tag or commit on the hub; None takes the default branch.
        folder: The folder, where it is one.
    """

    name: str
    revision: str | None
    folder: Path | None

    @classmethod
    def parse(cls, text: str, revision: str | None = None) -> Source:
        """Read ``NAME``, ``NAME@REVISION`` or a folder.

        Raises:
            UsageError: It is no folder with a config.json and cannot be a hub name, or two revisions are given.
        """
        folder = Path(text).expanduser()
        if (folder / "config.json").is_file():
            if revision is not None:
                raise UsageError(
                    f"{text} is a folder; the revision {revision!r} is for models on the hub.", "Leave it out."
                )
            return cls(text, None, folder)
        name, _, own = text.partition("@")
        if own and revision not in (None, own):
            raise UsageError(f"{text} names one revision, and {revision!r} is another.", "Name one of them.")
        if folder.exists() or not _HUB_NAME.fullmatch(name):
            raise UsageError(
                f"There is no backbone {text!r}: "
                + ("no config.json in it." if folder.exists() else "no such folder."),
                "Name a shipped backbone, a folder with config.json and model.safetensors, or a model on the hub as "
                "OWNER/MODEL@REVISION.",
            )
        return cls(name, own or revision, None)

    @property
    def where(self) -> str:
        """The folder or name as ``from_pretrained`` takes it."""
        return str(self.folder) if self.folder is not None else self.name

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained``."""
        if self.folder is not None:
            return {"local_files_only": True}
        return {"revision": self.revision} if self.revision else {}

    def record(self, config: Any) -> dict[str, str | None]:
        """Name and commit, as far as known, for the composite's record."""
        return {"name": self.name, "revision": getattr(config, "_commit_hash", None) or self.revision}

    def failed(self, what: str, error: Exception) -> UsageError:
        """What was tried and what to do, for an error of transformers."""
        if self.folder is not None:
            return UsageError(
                f"The backbone in {self.folder} cannot be loaded: {what}. {_first_line(error)}",
                "The folder needs config.json and model.safetensors as save_pretrained writes them.",
            )
        revision = f" at revision {self.revision}" if self.revision else ""
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            tried = "it is not shipped, no folder, not in the cache, and HF_HUB_OFFLINE forbids asking the hub"
            todo = "Set HF_HUB_OFFLINE=0 to fetch it once, or download it on another machine"
        else:
            tried = "it is not shipped, no folder, and the hub did not give it"
            todo = "Check the name, the revision and the connection, or download it on another machine"
        return UsageError(
            f"There is no backbone {self.name!r}{revision}: {tried} ({what}: {_first_line(error)})",
            f"{todo} (hf download {self.name} --local-dir FOLDER) and name the folder.",
        )


def read_config(source: Source) -> Any:
    """The configuration: a dictionary for a composite, else transformers' object.

    Raises:
        UsageError: It cannot be had, or its model type is unknown.
    """
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # the hub learns the model's name and no more
    try:
        document, _ = PreTrainedConfig.get_config_dict(source.where, **source.options)
        if isinstance(document, Mapping) and document.get("model_type") == COMPOSITE:
            return document
        return AutoConfig.from_pretrained(source.where, trust_remote_code=False, **source.options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise source.failed("its configuration", error) from error


def composite_folder(source: Source) -> Path:
    """Where a composite's files are, fetched from the hub if need be.

    Raises:
        UsageError: They cannot be had.
    """
    if source.folder is not None:
        return source.folder
    try:
        found = huggingface_hub.snapshot_download(
            source.name, revision=source.revision, allow_patterns=["*.json", "*.safetensors", "*.txt"]
        )
    except (OSError, ValueError) as error:
        raise source.failed("its files", error) from error
    return Path(found)


def load_body(source: Source, family: type[ForeignNetwork], config: Any) -> Any:
    """The core with its weights, float32, all of them from the checkpoint.

    Raises:
        UsageError: The weights cannot be had, are pickled, or do not fill the model.
    """
    if source.folder is not None and not any((source.folder / name).is_file() for name in _WEIGHTS):
        raise UsageError(
            f"The folder {source.folder} ({config.model_type}) has no model.safetensors.",
            "Pickled weights (pytorch_model.bin) are never read: save the model again with save_pretrained.",
        )
    kind = family.body_class(config)
    try:
        body, report = kind.from_pretrained(
            source.where,
            use_safetensors=True,
            output_loading_info=True,
            dtype="float32",
            **source.options,
            **family.body_options(config),
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise source.failed(f"its weights ({config.model_type})", error) from error
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report.get("mismatched_keys", ()))
    if lacking:
        raise UsageError(
            f"The checkpoint {source.name} lacks {len(lacking)} of the core's tensors, such as {lacking[0]}.",
            "They would start at random, differently on each machine. Use a checkpoint of the whole model.",
        )
    return body


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
