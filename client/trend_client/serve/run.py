"""The processes of a service: one, or several workers behind one port."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from trend_client.serve.settings import ENVIRONMENT, ServeSettings
from trend_client.serve.token import read_token, token_path
from trend_common.console import console
from trend_common.errors import DataError, PolicyError, TrendError, UsageError
from trend_common.files import private_directory, write_json

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["run", "worker"]

_GRACE_SECONDS = 30
_KEEP_ALIVE_SECONDS = 30
_HANGS_SECONDS = 120
"""A worker that loads a large file holds Python's lock for a while; uvicorn's own 5 s would take it for hung."""

_KINDS: dict[str, type[TrendError]] = {kind.__name__: kind for kind in (UsageError, DataError, PolicyError)}


def run(settings: ServeSettings) -> None:
    """Serve until Ctrl-C or SIGTERM; then answer what was asked, and stop.

    Raises:
        KeyboardInterrupt: It was stopped.
        TrendError: The port is taken, or the model or the sales file cannot be used.
    """
    token, new = read_token(private_directory(settings.folder))
    _log_to_stderr()
    with _bound(settings) as listening:
        host, port = listening.getsockname()[:2]
        scheme = "https" if settings.certificate else "http"
        console.print(f"Listening on {scheme}://{f'[{host}]' if ':' in host else host}:{port}", soft_wrap=True)
        if new:
            console.print(f"Token (shown this once): {token}", soft_wrap=True)
        console.print(f"The token lies in {token_path(settings.folder)}; Ctrl-C stops.", soft_wrap=True)
        with _sigterm_is_ctrl_c():
            if settings.workers == 1:
                _run_one(settings, token, listening)
            else:
                _run_several(settings, listening)
    raise KeyboardInterrupt


def _run_one(settings: ServeSettings, token: str, listening: socket.socket) -> None:
    from trend_client.serve.app import create_app

    failed: list[TrendError] = []

    def stop(error: TrendError) -> None:
        failed.append(error)
        server.should_exit = True

    server = uvicorn.Server(_config(settings, create_app(settings, token, on_failure=stop)))
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        if not failed:
            raise
    if failed:
        raise failed[0]


def _run_several(settings: ServeSettings, listening: socket.socket) -> None:
    metrics = settings.folder / "metrics"
    shutil.rmtree(metrics, ignore_errors=True)
    private_directory(metrics)
    # Read by prometheus_client in the workers when it is imported; they add up what they count in files there.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    os.environ[ENVIRONMENT] = settings.model_dump_json()
    failure = _failure_path(settings)
    failure.unlink(missing_ok=True)
    config = _config(settings, f"{__name__}:worker", factory=True, workers=settings.workers)
    Multiprocess(config, target=uvicorn.Server(config).run, sockets=[listening]).run()
    if failure.is_file():
        raise _told(failure)


def worker() -> FastAPI:
    """The application of one of several workers; called by uvicorn in a process of its own."""
    from prometheus_client.multiprocess import mark_process_dead

    from trend_client.serve.app import create_app

    settings = ServeSettings.model_validate_json(os.environ[ENVIRONMENT])
    _log_to_stderr()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, too, and ends its workers in order

    def stop(error: TrendError) -> None:
        # Started again it would fail again, so the reason is left for the parent, and all are ended.
        kind = type(error).__name__
        body = {"kind": kind, "message": error.message, "hint": error.hint}
        write_json(_failure_path(settings), body, private=True)
        os.kill(os.getppid(), signal.SIGTERM)

    app = create_app(settings, read_token(settings.folder)[0], on_failure=stop)
    lifespan = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def ending(app: Any) -> Any:
        async with lifespan(app) as state:
            yield state
        mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    app.router.lifespan_context = ending
    return app


def _failure_path(settings: ServeSettings) -> Path:
    return settings.folder / "failure.json"


def _told(path: Path) -> TrendError:
    import json

    found = json.loads(path.read_text("utf-8"))
    path.unlink()
    return _KINDS.get(found["kind"], TrendError)(found["message"], found["hint"])


def _config(settings: ServeSettings, app: Any, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        # Paths and queries may name products; the guard writes a log without them.
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_worker_healthcheck=_HANGS_SECONDS,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        **more,
    )


def _log_to_stderr() -> None:
    log = logging.getLogger("trend_client.serve")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


@contextlib.contextmanager
def _bound(settings: ServeSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    with listening:
        if os.name != "nt":  # there it would let two processes share a port unasked
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host.strip("[]"), settings.port))
        except OSError as error:
            raise UsageError(
                f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}.",
                "Another program may use the port: name another one with --port (0 takes any free one).",
            ) from error
        listening.listen(2048)
        listening.set_inheritable(True)
        yield listening


@contextlib.contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    """uvicorn stops in order at either and then raises the signal again; SIGTERM must not cut that short."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
