"""``trend-client serve``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from trend_client.options import (
    BackboneOption,
    ColumnsOption,
    CountryOption,
    DataOption,
    DateFormatOption,
    DecimalOption,
    DeviceOption,
    FreqOption,
    FutureOption,
    HomeOption,
    UntilOption,
    VerboseOption,
)

__all__ = ["register"]

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("serve")
    def serve_command(
        data: DataOption = None,
        future: FutureOption = None,
        home: HomeOption = None,
        columns: ColumnsOption = None,
        date_format: DateFormatOption = None,
        freq: FreqOption = None,
        decimal: DecimalOption = None,
        until: UntilOption = None,
        country: CountryOption = None,
        device: DeviceOption = "auto",
        backbone: BackboneOption = "trend-small",
        host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8420,
        allow_remote: Annotated[
            bool, typer.Option("--allow-remote", help="Let other machines connect, where --host says so.")
        ] = False,
        certificate: Annotated[
            Path | None, typer.Option("--tls-certificate", metavar="FILE", help="PEM; serves HTTPS.")
        ] = None,
        key: Annotated[
            Path | None, typer.Option("--tls-key", metavar="FILE", help="PEM; of the certificate.")
        ] = None,
        workers: Annotated[int, typer.Option(min=1, max=64, help="Processes behind the port.")] = 1,
        threads: Annotated[
            int | None, typer.Option(min=1, help="Threads of a worker's model. Default: the cores / the workers.")
        ] = None,
        precision: Annotated[
            str, typer.Option(metavar="float32|int8", help="int8 is quicker; used where it is as good.")
        ] = "float32",
        max_batch: Annotated[int, typer.Option(min=8, max=4096, help="Most series computed together.")] = 64,
        max_wait: Annotated[
            float, typer.Option(min=0, max=1000, metavar="MS", help="How long a request waits for others.")
        ] = 2.0,
        max_queue: Annotated[
            int, typer.Option(min=500, help="Series that may wait; beyond it callers are told when to come again.")
        ] = 1024,
        max_advice: Annotated[
            int, typer.Option(min=1, max=1000, help="What-ifs, orders and explanations that may wait; then 503.")
        ] = 8,
        max_body: Annotated[int, typer.Option(min=1024, metavar="BYTES", help="Of a request.")] = 8 * 2**20,
        latency_alert: Annotated[
            float, typer.Option(min=1, metavar="MS", help="Alert if 1 of 100 requests takes longer.")
        ] = 1000.0,
        drift_alert: Annotated[
            float, typer.Option(min=0.01, max=0.5, help="Alert if intervals hold more rarely than promised by this.")
        ] = 0.1,
        verbose: VerboseOption = False,
    ) -> None:
        """Answer requests for forecasts over HTTP, with a token, on this machine alone. Nothing is sent anywhere.

        docs/serve.md has the endpoints with examples. Ctrl-C stops when all requests are answered.
        """
        import os

        from trend_common.errors import UsageError

        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(
                f"The service needs what is not installed: {', '.join(missing)}.",
                'pip install "trend-federated[serve]"',
            )
        from trend_client.cli import _place
        from trend_client.planned import planned
        from trend_client.serve.run import run
        from trend_client.serve.settings import ServeSettings, check_address
        from trend_common.covariates import DEFAULT_HORIZON

        place = _place(
            home, data, columns, freq, date_format, decimal, until, country, device, backbone, needs_data=False
        )
        if future is not None and place.source.path:
            place.future = future
            panel = place.panel()
            planned(place, panel, DEFAULT_HORIZON[panel.freq])  # which keeps it, or says what is wrong with it
        if precision not in ("float32", "int8"):
            raise UsageError(f"--precision is {precision!r}.", "It is float32 or int8.")
        if max_batch % 8:
            raise UsageError(f"--max-batch is {max_batch}.", "It is a multiple of 8.")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        settings = ServeSettings(
            home=place.home.root,
            source=place.source if place.source.path else None,
            backbone=backbone,
            device=device,
            precision=precision,
            host=host,
            port=port,
            workers=workers,
            threads=threads or max(1, cores // workers),
            max_batch=max_batch,
            max_wait_ms=max_wait,
            max_queue=max_queue,
            max_advice=max_advice,
            max_body=max_body,
            latency_alert_ms=latency_alert,
            drift_tolerance=drift_alert,
            certificate=certificate,
            key=key,
        )
        check_address(settings, allow_remote=allow_remote)
        run(settings)
