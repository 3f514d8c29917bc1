"""The SuperLink and the client together, over TLS on 127.0.0.1, in one process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from trend_common.errors import ConnectionFailure, UsageError
from trend_common.flower.bundle import FAB_SHA256
from trend_common.flower.environment import quiet_logs
from trend_common.flower.keys import load_or_create_key
from trend_common.flower.link import Link
from trend_common.flower.linkgrid import LinkGrid
from trend_common.flower.node import ERROR_REASON, NodeEvent, run_node
from trend_common.flower.records import pack, reply, unpack
from trend_common.protocol import AdoptOrder, AdoptReply
from trend_server.certificates import Certificates, ensure_certificates, server_names

pytestmark = pytest.mark.timeout(90)
ORDER = AdoptOrder(federation="f", round=0, plan_sha256="0" * 64, adapter_sha256="0" * 64, final=False)
SECRET = "the shop in the High Street sold 207 umbrellas"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and a server's certificate."""
    return ensure_certificates(tmp_path_factory.mktemp("tls"), server_names("127.0.0.1"))


@contextlib.contextmanager
def link_at(tls: Certificates, port: int = 0, *keys: EllipticCurvePrivateKey) -> Iterator[Link]:
    """A SuperLink that admits these keys from the start."""
    quiet_logs()
    made = Link(
        host="127.0.0.1",
        port=port,
        certificate=tls.certificate,
        private_key=tls.private_key,
        enrol=lambda body: (403, {"code": "unknown"}),
        hold=0.3,
    )
    for key in keys:
        made.register(key.public_key(), "one")
    with made as link:
        yield link


class Client:
    """A client in a thread."""

    def __init__(self, folder: Path, tls: Certificates, app: ClientApp, *, fab: str = FAB_SHA256) -> None:
        self.key = load_or_create_key(folder / "client.key")
        self.events: list[NodeEvent] = []
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._folder, self._tls, self._app, self._fab = folder, tls, app, fab
        self._thread: threading.Thread | None = None

    def start(self, port: int) -> None:
        """Connect to ``port``."""
        self.stop.clear()

        def run() -> None:
            try:
                run_node(
                    self._app,
                    server=f"127.0.0.1:{port}",
                    ca_pem_path=self._tls.authority,
                    private_key=self.key,
                    expected_fab_hash=self._fab,
                    stop=self.stop,
                    on_event=self.events.append,
                    memory=self._folder / "node.json",
                    retry=(0.1, 0.3),
                )
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def end(self, seconds: float = 15.0) -> None:
        """Stop and wait."""
        self.stop.set()
        assert self._thread is not None
        self._thread.join(seconds)
        assert not self._thread.is_alive()

    def kinds(self) -> list[str]:
        """What happened."""
        return [event.kind for event in self.events]


def adopting(action: Callable[[Message], Message]) -> ClientApp:
    """An app with one message."""
    app = ClientApp()

    @app.query("adopt")
    def adopt(message: Message, _: Context) -> Message:
        return action(message)

    return app


def conversation(link: Link, *questions: tuple[str, dict[str, np.ndarray] | None]) -> list[Message]:
    """Wait for one client, ask it each question in turn, and return the answers."""
    answers: list[Message] = []
    app = ServerApp()

    @app.main()
    def main(grid: LinkGrid, _: Context) -> None:
        end = time.monotonic() + 30
        while not grid.presence() and time.monotonic() < end:
            grid.wait(0.05)
        (node,) = grid.presence()
        for action, tensors in questions:
            answers.extend(grid.send_and_receive([Message(pack(ORDER, tensors), node, action)], timeout=20))

    link.run(app)
    return answers


def echo(message: Message) -> Message:
    """Return the tensors."""
    _, tensors = unpack(message.content, AdoptOrder, tensors=True)
    return reply(message, AdoptReply(), tensors)


def test_tensors_go_there_and_back(tmp_path: Path, tls: Certificates) -> None:
    values = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.full(100_000, 0.5, np.float32)}
    with link_at(tls) as link:
        client = Client(tmp_path, tls, adopting(echo))
        assert link.register(client.key.public_key(), "one") == link.register(client.key.public_key(), "one")
        client.start(link.port)
        answers = conversation(link, ("query.adopt", values), ("query.adopt", values))
        assert [node.name for node in link.nodes()] == ["one"]
        client.end()
    assert client.error is None
    assert len(answers) == 2
    for answer in answers:
        _, found = unpack(answer.content, AdoptReply, tensors=True)
        for name, value in values.items():
            np.testing.assert_array_equal(found[name], value)
    assert client.kinds() == ["online", "received", "answered", "received", "answered", "stopped"]


def test_an_answer_is_not_lost_when_the_client_leaves_right_after_it(tmp_path: Path, tls: Certificates) -> None:
    """Flower reports a client that is offline instead of the answer that it left."""
    with link_at(tls) as link:
        client = Client(tmp_path, tls, ClientApp())

        def last(message: Message) -> Message:
            client.stop.set()
            return echo(message)

        client._app = adopting(last)
        link.register(client.key.public_key(), "one")
        client.start(link.port)
        answers: list[Message] = []
        app = ServerApp()

        @app.main()
        def main(grid: LinkGrid, _: Context) -> None:
            _until(lambda: bool(grid.presence()))
            (node,) = grid.presence()
            ids = list(grid.push_messages([Message(pack(ORDER, {"x": np.ones(1, np.float32)}), node, "query.adopt")]))
            time.sleep(1.5)  # the server is busy while the client answers and leaves
            end = time.monotonic() + 10
            while not answers and time.monotonic() < end:
                answers.extend(grid.pull_messages(ids))
                time.sleep(0.05)

        link.run(app)
        client.end()
    assert not answers[0].has_error(), answers[0].error


def test_no_word_of_an_error_reaches_the_server(tmp_path: Path, tls: Certificates) -> None:
    def fail(_: Message) -> Message:
        raise ValueError(SECRET)

    with link_at(tls) as link:
        client = Client(tmp_path, tls, adopting(fail))
        link.register(client.key.public_key(), "one")
        client.start(link.port)
        (answer,) = conversation(link, ("query.adopt", {}))
        client.end()
    assert answer.error.reason == ERROR_REASON
    assert "umbrellas" not in repr(vars(answer.error))
    failed = next(event for event in client.events if event.kind == "failed")
    assert SECRET in str(failed.error)


@pytest.mark.parametrize("action", ["evaluate", "train.more", "query.describe_all", "system"])
def test_a_message_that_is_not_of_the_protocol_never_reaches_the_app(
    tmp_path: Path, tls: Certificates, action: str
) -> None:
    called: list[str] = []
    app = ClientApp()
    for register in (app.evaluate(), app.train("more"), app.query("describe_all")):

        @register
        def handler(message: Message, _: Context) -> Message:
            called.append(message.metadata.message_type)
            return reply(message, AdoptReply())

    with link_at(tls) as link:
        client = Client(tmp_path, tls, app)
        link.register(client.key.public_key(), "one")
        client.start(link.port)
        (answer,) = conversation(link, (action, None))
        client.end()
    assert answer.error.reason == ERROR_REASON
    assert called == []
    assert "refused" in client.kinds()


def test_a_run_of_another_bundle_is_refused(tmp_path: Path, tls: Certificates) -> None:
    called: list[int] = []

    def count(message: Message) -> Message:
        called.append(1)
        return echo(message)

    with link_at(tls) as link:
        client = Client(tmp_path, tls, adopting(count), fab="0" * 64)
        link.register(client.key.public_key(), "one")
        client.start(link.port)
        (answer,) = conversation(link, ("query.adopt", {}))
        client.end()
    assert answer.error.reason == ERROR_REASON
    assert called == []


def test_a_stranger_and_a_revoked_client_are_told_so(tmp_path: Path, tls: Certificates) -> None:
    with link_at(tls) as link:
        client = Client(tmp_path, tls, adopting(echo))
        client.start(link.port)
        _until(lambda: client.error is not None)
        assert isinstance(client.error, ConnectionFailure)
        assert "does not know this client's key" in client.error.message
        client.error = None
        link.register(client.key.public_key(), "one")
        client.start(link.port)
        _until(lambda: "online" in client.kinds())
        assert link.unregister(client.key.public_key())
        assert not link.unregister(client.key.public_key())
        _until(lambda: client.error is not None, 15)
        assert isinstance(client.error, ConnectionFailure)
        assert link.nodes() == []


def test_registrations_and_clients_survive_the_server(tmp_path: Path, tls: Certificates) -> None:
    with link_at(tls) as link:
        client = Client(tmp_path, tls, adopting(echo))
        node = link.register(client.key.public_key(), "one")
        client.start(link.port)
        assert len(conversation(link, ("query.adopt", {}))) == 1
        port = link.port
    _until(lambda: "offline" in client.kinds())
    with link_at(tls, port, client.key) as link:
        assert [one.node_id for one in link.nodes()] == [node]
        _until(lambda: client.kinds().count("online") == 2)
        assert len(conversation(link, ("query.adopt", {}))) == 1
        client.end()
    assert client.error is None


def test_a_session_that_did_not_end_cleanly_is_taken_over_at_once(tmp_path: Path, tls: Certificates) -> None:
    """The node id is remembered on disk; without it the server's patience of 20 seconds has to pass."""
    from trend_common.flower.fleet import Fleet, StillOnline

    with link_at(tls) as link:
        key = load_or_create_key(tmp_path / "client.key")
        link.register(key.public_key(), "one")
        with Fleet(f"127.0.0.1:{link.port}", tls.authority, key) as killed:
            node = killed.connect(None)
        (before,) = link.nodes()
        with Fleet(f"127.0.0.1:{link.port}", tls.authority, key) as fresh:
            with pytest.raises(StillOnline):
                fresh.connect(None)
            assert fresh.connect(node) == node
        (after,) = link.nodes()
        assert after.since > before.since, "the server must see that this is another session"


def test_a_port_in_use_is_said(tmp_path: Path, tls: Certificates) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="cannot listen"), link_at(tls, taken.getsockname()[1]):
            pass


def test_plain_http_and_nothing_at_all_are_told_apart(tmp_path: Path, tls: Certificates) -> None:
    """No TLS there is final; nobody there is worth another try."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                time.sleep(0.2)

        threading.Thread(target=speak, daemon=True).start()
        client = Client(tmp_path, tls, adopting(echo))
        client.start(port)
        _until(lambda: client.error is not None)
        assert isinstance(client.error, ConnectionFailure)
        assert "TLS" in client.error.message
    client = Client(tmp_path, tls, adopting(echo))
    client.start(port)
    _until(lambda: client.kinds().count("offline") >= 3)
    assert client.error is None
    client.end()


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
