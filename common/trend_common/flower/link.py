"""Flower's SuperLink in the server's own process, behind one public TLS port.

The server talks to the SuperLink by calling it: it registers keys, starts a run and drives the ServerApp in its own
thread. So there is no port for the Control and Runtime APIs, not even on the loopback interface, where any user of
the machine could have started programs through them; and no further process.

Flower keeps its state in memory. What must outlive a crash is kept elsewhere: who is admitted in the server's roster,
the rounds in its checkpoints; and what Flower knows of a run, its messages, would be ended by a restart anyway. Its
SQL database takes five times the processor time of all the rest.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, RecordDict
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    TRANSPORT_TYPE_GRPC_RERE,
    SubStatus,
)
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab as FabProto
from flwr.serverapp import ServerApp
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NodeStatus
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.servicer.control import control_handlers

from trend_common.errors import UsageError
from trend_common.flower.bundle import FAB_BYTES, FAB_SHA256
from trend_common.flower.fleet_api import FleetApi
from trend_common.flower.gate import Bell, EnrolHandler, Gate, RateLimit
from trend_common.flower.linkgrid import LinkGrid

__all__ = ["Link", "LinkNode"]

_TASK_HEARTBEAT: Final = HEARTBEAT_DEFAULT_INTERVAL / 3


class _NoLifespan:
    """Stands where Flower would start its gRPC servers and its program that runs submitted apps."""

    def __init__(self, config: object, state_factory: object) -> None:
        pass

    def startup(self) -> None:
        """Start nothing."""

    def shutdown(self) -> None:
        """Stop nothing."""


@dataclass(frozen=True)
class LinkNode:
    """A registered client, as the SuperLink sees it.

    Attributes:
        node_id: Flower's number for it.
        name: The invited name.
        online: Whether it has been heard of in time.
        since: When its present or last session began (ISO 8601), "" before the first.
    """

    node_id: int
    name: str
    online: bool
    since: str


def _renumbered(state: Any, drawn: int, public_key: bytes) -> int:
    """Give a new node a number that follows from its key, in place of one drawn at random.

    Clients and checkpoints know a client by it, and the next start of the server knows no other way to it.
    """
    wanted = int.from_bytes(hashlib.sha256(b"node:" + public_key).digest()[:8], "big")
    with state.lock:
        if wanted <= SUPERLINK_NODE_ID or wanted in state.nodes:
            return drawn
        node = state.nodes.pop(drawn)
        node.node_id = wanted
        state.nodes[wanted] = node
        state.node_public_key_to_node_id[public_key] = wanted
        state.owner_to_node_ids[NOOP_FLWR_AID].discard(drawn)
        state.owner_to_node_ids[NOOP_FLWR_AID].add(wanted)
    return wanted


def _forget_uploads(state: Any) -> None:
    """Let go of uploads that were begun and not finished in time; Flower does so only where somebody asks for one."""
    with state.lock:
        late = [name for name, one in state._object_push_sessions.items() if one.expires_at <= now()]
        for name in late:
            state._cleanup_push_session(name, cleanup_messages=True)


class Link:
    """A SuperLink with its public listener; a context manager.

    Args:
        host, port: Where to listen; port 0 takes a free one.
        certificate, private_key: Of the TLS server (PEM files).
        authority: Certificates that vouch for a renewed authority (PEM).
        enrol: Redeems invitations (see :class:`~trend_common.flower.gate.Gate`).
        rate: Limits requests to join.
        hold: Seconds that a client's request for work is held at most.

    Raises:
        UsageError: The address cannot be listened on.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        certificate: Path,
        private_key: Path,
        enrol: EnrolHandler,
        authority: bytes = b"",
        rate: RateLimit | None = None,
        hold: float = 5.0,
    ) -> None:
        config = SuperLinkLifespanConfig(
            control_address="127.0.0.1:0",
            health_server_address=None,
            host=host,
            port=port,
            insecure=True,
            certificates=None,
            superexec_auth_secret=None,
            authn_plugin=NoOpControlAuthnPlugin(),
            event_log_plugin=None,
            fleet_event_log_plugin=None,
            enable_event_log=False,
            artifact_provider=None,
            enable_supernode_auth=True,
            fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
            fleet_api_address=None,
            simulation=False,
            ssl_ca_certfile=None,
            ssl_certfile=None,
            ssl_keyfile=None,
            database=FLWR_IN_MEMORY_DB_NAME,
            isolation="process",
            runtime_dependency_install=False,
        )
        with warnings.catch_warnings():
            # Flower's database migrations use an old form of alembic's settings.
            warnings.simplefilter("ignore", DeprecationWarning)
            application = create_app(config, _NoLifespan)
        self._state: Any = application.state.linkstate_factory.state()
        # Flower takes its three locks in two different orders; as one they cannot wait for one another.
        self._state._lock_object_push_sessions = self._state.object_store.lock_store = self._state.lock
        self._keys: dict[int, bytes] = {}
        self._bell = Bell(hold)
        self._known: set[bytes] = set()
        gate = Gate(
            FleetApi(application), enrol, self._known.__contains__, self._bell, authority=authority, rate=rate
        )
        self._socket = _listen(host, port)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                gate,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=2,
                ssl_certfile=str(certificate),
                ssl_keyfile=str(private_key),
                ssl_version=ssl.PROTOCOL_TLS_SERVER,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="public-port", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
            if not self._thread.is_alive():
                raise UsageError(
                    f"The server cannot listen on {self.host}:{self.port}.", "Check the TLS files in its home."
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bell.close()
        self._server.should_exit = True
        self._thread.join(timeout=5.0)
        self._socket.close()

    def register(self, public_key: ec.EllipticCurvePublicKey, name: str) -> int:
        """Admit a key under a name and return its node id: the same for the same key, also after a restart."""
        pem = public_key_to_bytes(public_key)
        node_id = self._state.get_node_id_by_public_key(pem)
        if node_id is None:
            interval = float(HEARTBEAT_DEFAULT_INTERVAL)
            drawn = self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, pem, interval, name=name)
            node_id = _renumbered(self._state, drawn, pem)
        self._keys[int(node_id)] = pem
        self._known.add(pem)
        return int(node_id)

    def unregister(self, public_key: ec.EllipticCurvePublicKey) -> bool:
        """Shut a key out for good; return whether it was admitted."""
        node_id = self._state.get_node_id_by_public_key(public_key_to_bytes(public_key))
        if node_id is None:
            return False
        node = self._state.nodes[node_id]
        node.online_until = node.online_until or 0.0  # what Flower's own function expects of who was never online
        self._state.delete_node(NOOP_FLWR_AID, node_id)
        self._known.discard(self._keys.pop(int(node_id), b""))
        return True

    def nodes(self) -> list[LinkNode]:
        """Return all clients that are admitted."""
        found = []
        for node in self._state.get_node_info():
            if node.status != NodeStatus.UNREGISTERED:
                online = node.status == NodeStatus.ONLINE
                found.append(LinkNode(int(node.node_id), str(node.name), online, str(node.last_activated_at)))
        return found

    def run(self, app: ServerApp) -> None:
        """Start a new run and drive ``app`` in this thread to its end. What it raises is raised on."""
        account = AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
        request = StartRunRequest(fab=FabProto(hash_str=FAB_SHA256, content=FAB_BYTES))
        run_id = control_handlers.start_run(request, account, self._state, None).run_id
        run = self._state.get_run_info(run_ids=[run_id])[0]
        task_id = run.primary_task_id
        if not (self._state.claim_task(task_id) and self._state.activate_task(task_id)):
            raise RuntimeError("Flower did not hand out the run that was just started.")
        outcome, details = SubStatus.FAILED, "ended by an error"
        try:
            with self._task_heartbeats(task_id):
                grid = LinkGrid(self._state, self._state.get_run_info(run_ids=[run_id])[0], self._bell, self._keys)
                app(grid, Context(run_id, SUPERLINK_NODE_ID, {}, RecordDict(), {}))
            outcome, details = SubStatus.COMPLETED, ""
        except KeyboardInterrupt:
            outcome, details = SubStatus.STOPPED, "stopped by the operator"
            raise
        finally:
            self._state.finish_task(task_id, outcome, details)
            self._state.cleanup_run(run_id)

    @contextmanager
    def _task_heartbeats(self, task_id: int) -> Iterator[None]:
        done = threading.Event()

        def beat() -> None:
            while not done.wait(_TASK_HEARTBEAT):
                self._state.acknowledge_task_heartbeat(task_id)
                _forget_uploads(self._state)

        thread = threading.Thread(target=beat, name="run-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(timeout=5.0)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # on Windows the option means something else: sharing the port with anybody
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"The server cannot listen on {host}:{port}: {error.strerror or error}.",
            "Choose a free port with --port, and for --host an address of this machine (0.0.0.0 for all).",
        ) from error
    return listener
