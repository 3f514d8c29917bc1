"""What the commands of a client share: home, sales file, policy, engine, and what the ledger says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trend_client.home import ClientHome, DataSource
from trend_common.console import console
from trend_common.errors import UsageError

if TYPE_CHECKING:
    from trend_client.engine import Engine
    from trend_client.report import Privacy, SentMessage
    from trend_common.panel import SalesPanel
    from trend_common.privacy.budget import Budget
    from trend_common.privacy.policy import Policy

__all__ = ["Workplace"]


class Workplace:
    """One home and one sales file.

    Args:
        home: The home folder.
        data: The sales file; None takes the one that this home used last.
        columns, freq, date_format, decimal: How to read it; kept for the next time.
        until: The export's last day, YYYY-MM-DD, where a person declares it; kept with the file.
        sheet: The sheet of a workbook; kept with the file.
        country: For public holidays where the file has none.
        device: "auto", "cpu", "cuda" or "mps".
        backbone: Name or folder.
        needs_data: Whether to complain if there is no sales file.

    ``future`` is the plan that a command was given (:mod:`trend_client.planned`).
    """

    def __init__(
        self,
        home: Path,
        *,
        data: Path | None = None,
        columns: dict[str, str] | None = None,
        freq: str | None = None,
        date_format: str | None = None,
        decimal: str | None = None,
        until: str | None = None,
        sheet: str | None = None,
        country: str | None = None,
        device: str = "auto",
        backbone: str = "trend-small",
        needs_data: bool = True,
    ) -> None:
        self.home = ClientHome(home)
        self.device, self.backbone = device, backbone
        self.mask = False
        self.future: Path | None = None
        self._given = data is not None
        self._panel: SalesPanel | None = None
        if data is not None:
            path, known = str(data.expanduser().absolute()), self.home.data_source()
            self.source = DataSource(
                path=path,
                columns=columns or {},
                freq=freq,
                date_format=date_format,
                decimal=decimal,
                until=until,
                sheet=sheet,
                country=country,
                future=known.future if known is not None and known.path == path else None,
            )
        else:
            known = self.home.data_source()
            if known is None and needs_data:
                raise UsageError(f"The home {self.home.root} knows no sales file yet.", "Name one: --data sales.csv.")
            self.source = known or DataSource(path="")

    @property
    def country(self) -> str | None:
        """For public holidays."""
        return self.source.country

    def panel(self) -> SalesPanel:
        """The sales, read when first asked for; the file is remembered once it could be read."""
        if self._panel is None:
            self._panel = self._read()
        return self._panel

    def _read(self) -> SalesPanel:
        from trend_common.panel import read

        source = self.source
        panel = read(
            Path(source.path),
            columns=source.columns,
            freq=source.freq,  # type: ignore[arg-type]
            date_format=source.date_format,
            decimal=source.decimal,  # type: ignore[arg-type]
            period=None if source.until is None else (None, source.until),
            sheet=source.sheet,
        )
        if self._given:
            self.home.save_data_source(source)
        words = {"D": "days", "W": "weeks", "M": "months"}[panel.freq]
        warnings = [finding for finding in panel.findings if finding.severity == "warning"]
        noun = "warning" if len(warnings) == 1 else "warnings"
        console.print(
            f"Sales: {panel.n_series} series of {words}, {panel.start.date()} to {panel.calendar_end.date()}"
            + (" as declared" if panel.until is not None else "")
            + (f"; {len(warnings)} {noun} (trend-client check shows them)" if warnings else "")
            + "."
        )
        return panel

    def shown(self, panel: SalesPanel, out: Path | None) -> tuple[SalesPanel, Path | None]:
        """What the outputs may know of ``panel``, and the folder for them: masked ones have a folder of their own."""
        if not self.mask:
            return panel, out
        from trend_common.masking import Mask

        return Mask(self.home.root).panel(panel), out or self.home.output / "masked"

    def policy(self) -> Policy:
        """What this client allows; written with commented defaults at first use."""
        from trend_common.privacy.policy import Policy

        new = not self.home.policy_path.exists()
        policy = Policy.load(self.home.policy_path)
        if new:
            console.print(f"Wrote your policy, {self.home.policy_path}: what you allow is decided there.")
        return policy

    def engine(self) -> Engine:
        """The backbone."""
        import os

        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        from trend_client.engine import Engine

        return Engine(self.backbone, device=self.device)

    @property
    def ledger_path(self) -> Path:
        """The privacy ledger."""
        return self.home.ledger_folder / "ledger.jsonl"

    @property
    def sent_path(self) -> Path:
        """The list of sent messages."""
        return self.home.ledger_folder / "sent.jsonl"

    def budget(self) -> Budget:
        """What the ledger says."""
        from trend_common.privacy.budget import read_budget

        policy = self.policy()
        folder = self.home.root / "federations"
        noted = {path.parent.name: self.home.shares(path.parent.name) for path in folder.glob("*/shares.json")}
        return read_budget(
            self.ledger_path,
            head_path=self.home.head_folder / "ledger-head.json",
            epsilon_total=policy.epsilon_total,
            delta=policy.delta_max,
            shares={name: shares for name, shares in noted.items() if shares is not None},
        )

    def sent(self) -> tuple[SentMessage, ...]:
        """Every message that left, for the report."""
        from trend_client.report import SentMessage
        from trend_common.privacy.sent import read_sent

        found = read_sent(self.sent_path, head_path=self.home.head_folder / "sent-head.json")
        return tuple(SentMessage(datetime.fromisoformat(one.time), one.kind, one.bytes, one.sha256) for one in found)

    def privacy(self) -> Privacy | None:
        """The privacy section of the report; None if this home never joined anything."""
        from trend_client.report import Privacy

        budget = self.budget()
        if not budget.rows and budget.chain_ok:
            return None
        sent = self.sent()
        finite = budget.epsilon_spent != float("inf")
        return Privacy(
            epsilon=budget.epsilon_spent if finite and budget.chain_ok else None,
            delta=budget.delta,
            unit=budget.unit,
            rounds=sum(row.rounds_answered for row in budget.rows),
            bytes_sent=sum(one.bytes for one in sent),
            guess=budget.guess if finite and budget.chain_ok else None,
            cap=budget.epsilon_cap,
            problem=budget.problem,
        )
