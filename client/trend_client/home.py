"""A retailer's home folder: identity, policy, ledger, and what each federation left.

::

    home/
      node-key            this client's private key (0600)
      identity.json       the server it joined, under which name, and which app bundle it serves
      ca.pem              the one certificate authority that is trusted
      policy.toml         what this client allows; a person edits it
      ledger/             what was spent and every message that left
      data.json           the sales file and how to read it, and what is planned, for the offline commands
      basis.json          what the last forecast was made with, for the commands that decide
      federations/NAME/   plan.json, frozen.safetensors, shared.safetensors, personal.safetensors, adapters in peft's
                          format under shared/ and personal/; roster.json and secure-round.json of secure rounds
      trees/              boosted trees that were fitted to the sales, the newest few
      output/             forecasts, backtest, report
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from trend_common.errors import ConnectionFailure, PolicyError, UsageError
from trend_common.files import private_directory, write_bytes, write_json, write_text
from trend_common.protocol import FederationPlan, parse
from trend_common.secagg.messages import FederationRoster
from trend_common.tensors import Tensors, tensors_sha256

if TYPE_CHECKING:
    from trend_common.privacy.budget import Share

__all__ = ["ClientHome", "DataSource", "Identity", "Lineage", "default_home"]


def default_home() -> Path:
    """``$TREND_CLIENT_HOME``, else ``~/.trend-client``."""
    return Path(os.environ.get("TREND_CLIENT_HOME", "~/.trend-client")).expanduser()


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identity(_Stored):
    """Which server this home has joined.

    Attributes:
        server: ``HOST:PORT`` of the invitation.
        name: What the operator calls this client.
        fab_sha256: The app bundle that is served.
    """

    server: str
    name: str
    fab_sha256: str


class DataSource(_Stored):
    """The sales file, how it is read, and what a person declared about it.

    ``until`` is the export's last day, ``future`` the file of what is planned (:mod:`trend_client.planned`).
    """

    path: str
    columns: dict[str, str] = {}
    freq: str | None = None
    until: str | None = None
    date_format: str | None = None
    decimal: str | None = None
    sheet: str | None = None
    country: str | None = None
    future: str | None = None


class Lineage(_Stored):
    """Where an adopted adapter comes from."""

    federation: str
    round: int
    final: bool
    plan_sha256: str
    adapter_sha256: str


class ClientHome:
    """The folder; created, readable by its owner alone, when it is first used."""

    def __init__(self, root: Path) -> None:
        self.root = private_directory(root.expanduser().absolute())
        if not os.access(self.root, os.W_OK):
            raise UsageError(f"The home folder {self.root} cannot be written to.", "Name another one with --home.")

    @property
    def key_path(self) -> Path:
        """The private key."""
        return self.root / "node-key"

    @property
    def ca_path(self) -> Path:
        """The trusted certificate authority."""
        return self.root / "ca.pem"

    @property
    def policy_path(self) -> Path:
        """What this client allows."""
        return self.root / "policy.toml"

    @property
    def trees(self) -> Path:
        """Trees that were fitted to the sales, so that the next command need not fit them again."""
        return self.root / "trees"

    @property
    def ledger_folder(self) -> Path:
        """The ledger, sealed messages and the log of what was sent."""
        return self.root / "ledger"

    @property
    def head_folder(self) -> Path:
        """A second place for the heads of the ledger and the list of messages, outside the home.

        A home that was restored from an old backup then shows as rolled back. ``$TREND_STATE_HOME``, else the
        user's state folder; one folder a home.
        """
        state = os.environ.get("TREND_STATE_HOME") or os.environ.get("XDG_STATE_HOME", "~/.local/state")
        name = hashlib.sha256(str(self.root).encode()).hexdigest()[:16]
        return private_directory(Path(state).expanduser() / "trend-client" / name)

    @property
    def node_path(self) -> Path:
        """The number that the server gave to this client."""
        return self.root / "node.json"

    @property
    def log_path(self) -> Path:
        """Messages of libraries, for `--verbose` and bug reports; holds nothing of the sales."""
        return self.root / "client.log"

    @property
    def output(self) -> Path:
        """Forecasts, backtest and report."""
        return self.root / "output"

    def identity(self) -> Identity | None:
        """Whom this home has joined, if anybody.

        Raises:
            ConnectionFailure: The file is damaged.
        """
        found = self._read(self.root / "identity.json", Identity)
        return found if isinstance(found, Identity) else None

    def save_identity(self, identity: Identity, ca_pem: str) -> None:
        """Note the server that was joined; the certificate first, so that no identity is without one."""
        write_text(self.ca_path, ca_pem, private=True)
        write_json(self.root / "identity.json", identity.model_dump(), private=True)

    def renew_authority(self, ca_pem: str) -> None:
        """Trust this authority from now on, and no longer the one before, which has vouched for it."""
        write_text(self.ca_path, ca_pem, private=True)

    def forget_identity(self) -> None:
        """Leave the server: the key and the identity go, the ledger stays."""
        for path in (self.root / "identity.json", self.key_path, self.node_path):
            path.unlink(missing_ok=True)

    def data_source(self) -> DataSource | None:
        """The sales file that was used last, for the offline commands."""
        found = self._read(self.root / "data.json", DataSource)
        return found if isinstance(found, DataSource) else None

    def save_data_source(self, source: DataSource) -> None:
        """Note the sales file."""
        write_json(self.root / "data.json", source.model_dump(), private=True)

    def _read(self, path: Path, model: type[_Stored]) -> _Stored | None:
        if not path.is_file():
            return None
        try:
            return model.model_validate_json(path.read_text("utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise ConnectionFailure(
                f"{path} is damaged.", "Restore it from your backup, or remove it and join again with an invitation."
            ) from error

    def federation(self, name: str) -> Path:
        """The folder of one federation."""
        return self.root / "federations" / name

    def save_plan(self, plan: FederationPlan, frozen: Tensors) -> None:
        """Keep an accepted plan."""
        folder = private_directory(self.federation(plan.federation))
        write_tensors(folder / "frozen.safetensors", frozen)
        write_text(folder / "plan.json", plan.canonical(), private=True)

    def plan(self, name: str) -> tuple[FederationPlan, Tensors] | None:
        """An accepted plan and its frozen tensors."""
        path = self.federation(name) / "plan.json"
        if not path.is_file():
            return None
        plan = parse(FederationPlan, path.read_text("utf-8"))
        return plan, read_tensors(path.with_name("frozen.safetensors"))

    def save_shares(self, name: str, shares: dict[str, Share]) -> None:
        """Note how many units a whole product or store is; for the screen of ``budget`` alone."""
        path = self.federation(name) / "shares.json"
        write_json(path, {kind: list(share) for kind, share in shares.items()}, private=True)

    def shares(self, name: str) -> dict[str, Share] | None:
        """What :meth:`save_shares` noted; None if nothing readable is there, since figures without it are larger."""
        try:
            found = json.loads((self.federation(name) / "shares.json").read_text("utf-8"))
            return {str(kind): (int(share[0]), int(share[1])) for kind, share in found.items()}
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None

    def save_shared(self, lineage: Lineage, tensors: Tensors) -> None:
        """Keep the shared adapter that the server sent last; the federation becomes the current one."""
        folder = private_directory(self.federation(lineage.federation))
        write_tensors(folder / f"shared-{lineage.adapter_sha256[:16]}.safetensors", tensors)
        write_json(folder / "shared.json", lineage.model_dump(), private=True)
        write_json(self.root / "current.json", {"federation": lineage.federation}, private=True)
        for old in folder.glob("shared-*.safetensors"):
            if lineage.adapter_sha256[:16] not in old.name:
                old.unlink(missing_ok=True)

    def rosters(self) -> list[FederationRoster]:
        """The rosters that were pinned for secure aggregation."""
        found = sorted((self.root / "federations").glob("*/roster.json"))
        return [parse(FederationRoster, path.read_text("utf-8")) for path in found]

    def shared(self, name: str) -> tuple[Lineage, Tensors] | None:
        """The shared adapter of a federation, checked against its hash.

        Raises:
            PolicyError: The file is not the one that was adopted.
        """
        folder = self.federation(name)
        found = self._read(folder / "shared.json", Lineage)
        if not isinstance(found, Lineage):
            return None
        tensors = read_tensors(folder / f"shared-{found.adapter_sha256[:16]}.safetensors")
        if tensors_sha256(tensors) != found.adapter_sha256:
            raise PolicyError(f"The shared adapter in {folder} was altered.", "Run the client again to fetch it.")
        return found, tensors

    def current_federation(self) -> str | None:
        """The federation whose adapter arrived last."""
        path = self.root / "current.json"
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return str(found["federation"])

    def save_personal(
        self,
        name: str,
        tensors: Tensors,
        choices: dict[str, float],
        base: str,
        *,
        unseen_from: str | None = None,
        start: Tensors | None = None,
        forgetting: float | None = None,
    ) -> None:
        """Keep the personal adapter, which never leaves.

        Args:
            name: The federation.
            tensors: The model.
            choices: The validation measure of each choice that was tried.
            base: From what it started, "shared" or "backbone".
            unseen_from: The first day that its training has not seen, YYYY-MM-DD.
            start: The shared adapter that it started from, for when a newer one comes.
            forgetting: Its error on made-up sales over that of the start, less 1.
        """
        folder = private_directory(self.federation(name))
        if start is None:
            (folder / "personal-start.safetensors").unlink(missing_ok=True)
        else:
            write_tensors(folder / "personal-start.safetensors", start)
        write_tensors(folder / "personal.safetensors", tensors)
        write_json(
            folder / "personal.json",
            {
                "started_from": base,
                "validation_wql": choices,
                "unseen_from": unseen_from,
                "forgetting": forgetting,
            },
            private=True,
        )

    def personal_seen(self, name: str) -> str | None:
        """The first day that the personal adapter's training has not seen, YYYY-MM-DD; None if nobody noted it."""
        try:
            found = json.loads((self.federation(name) / "personal.json").read_text("utf-8")).get("unseen_from")
        except (OSError, ValueError, AttributeError):
            return None
        return found if isinstance(found, str) else None

    def personal_start(self, name: str) -> Tensors | None:
        """The shared adapter that the personal one started from, if it started from one."""
        path = self.federation(name) / "personal-start.safetensors"
        return read_tensors(path) if path.is_file() else None

    def personal(self, name: str) -> Tensors | None:
        """The personal adapter, if there is one."""
        path = self.federation(name) / "personal.safetensors"
        return read_tensors(path) if path.is_file() else None


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write a safetensors file whole, readable by its owner alone."""
    from safetensors.numpy import save

    write_bytes(path, save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}), private=True)


def read_tensors(path: Path) -> Tensors:
    """Read a safetensors file of float32 arrays.

    Raises:
        PolicyError: It is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        loaded: Tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise PolicyError(f"{path} is missing or damaged.", "Run the client again to fetch it.") from error
    return loaded
