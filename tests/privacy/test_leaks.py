"""Every byte that clients send in a whole federation, and what is in them: the allow-list and nothing else.

Two retailers as different as the policy's defaults let them be (size, scale, names, noise) run the real command
against a real server over TLS. ``captured_client.py`` writes down what goes into TLS. Here each request is parsed as
strictly as can be: what does not give the very same bytes when it is written again is a leak.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Message
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import Message as Proto
from google.protobuf.unknown_fields import UnknownFieldSet
from safetensors.numpy import save

from trend_common.flower.invite import ENROL_PATH, EnrolRequest
from trend_common.flower.records import pack, tensors_from_bytes, tensors_to_bytes, unpack
from trend_common.privacy.sent import read_sent
from trend_common.protocol import AdoptReply, DescribeReply, FederationPlan, TrainReply, WireModel, parse
from trend_common.secagg.messages import ConfirmReply, KeysReply, SharesReply, UnmaskReply
from trend_common.tensors import decode_int8

HERE = Path(__file__).resolve().parent
ROUNDS = 2


# --- the federation, once for this module ---


@dataclass(frozen=True)
class Shop:
    """A retailer: what it sells is told by words and numbers that occur nowhere else."""

    name: str
    file: str
    store: str
    product: str
    products: int
    days: int
    unit: int

    def frame(self) -> pd.DataFrame:
        rng = np.random.default_rng(self.products)
        dates = pd.date_range(end="2024-05-31", periods=self.days)
        season = 1 + 0.4 * np.sin(2 * np.pi * np.arange(self.days) / 7)
        tables = [
            pd.DataFrame(
                {
                    "date": dates,
                    "store": self.store,
                    "product": f"{self.product} {number}",
                    "units": self.unit * (1 + rng.poisson(8 * season)),
                }
            )
            for number in range(self.products)
        ]
        return pd.concat(tables)

    @property
    def secrets(self) -> list[str]:
        """Words that must not be found in what is sent or logged."""
        return [self.store, self.product, self.file, *{str(value) for value in self.frame()["units"]}]


SHOPS = (
    Shop("client-anna", "umbrellas-2024.csv", "Wolkenbruchgasse", "Knirps", 21, 110, 100_000_007),
    Shop("client-bert", "all there is.csv", "Hauptbahnhof", "sehr langer Artikelname", 44, 140, 765_432_101),
    Shop("client-carl", "kiosk.csv", "Marktplatz 7", "Zeitung", 24, 130, 31_415_926_535),
)
KINDS = {"plain": 2, "secure": 3}
"""The federation's kind → how many take part: plain, and with secure aggregation, which needs three."""
ROUND = {
    "plain": ["train"],
    "secure": ["query.keys", "query.shares", "train.masked", "query.confirm", "query.unmask"],
}
NOTED = {"plain": ["train"], "secure": ["keys", "shares", "train", "confirm", "unmask"]}


@dataclass
class Capture:
    """What one client sent, and what it left on its own disk."""

    kind: str
    shop: Shop
    home: Path
    state: Path
    screen: str
    events: list[dict[str, str]] = field(default_factory=list)
    streams: dict[int, bytes] = field(default_factory=dict)


def read_tap(path: Path, capture: Capture) -> Capture:
    for line in path.read_text("ascii").splitlines():
        record = json.loads(line)
        if "event" in record:
            capture.events.append(record)
        else:
            number = record["connection"]
            capture.streams[number] = capture.streams.get(number, b"") + base64.b64decode(record["bytes"])
    return capture


@pytest.fixture(scope="module", params=KINDS)
def captures(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path
) -> Iterator[list[Capture]]:
    kind, root = str(request.param), tmp_path_factory.mktemp("captured")
    shops = SHOPS[: KINDS[kind]]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: object) -> subprocess.Popen[bytes]:
        # The part after the federation is run once, in the plain one.
        own = {"TREND_STATE_HOME": str(root / "state" / name), "CAPTURE_OFFLINE_PART": "01"[kind == "plain"]}
        with (root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **own, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"},
            )
        running.append(process)
        return process

    server = ("-m", "trend_server.cli")
    options = ("--rounds", ROUNDS, "--min-clients", len(shops), "--horizon", 14, "--context", 28, "--exit-when-done")
    options += ("--secure-aggregation",) if kind == "secure" else ()
    same = ("--backbone", tiny_backbone)
    here = ("--home", root / "server")
    try:
        start("server", *server, *here, *same, *options, "--port", address.split(":")[1], "--round-timeout", "5m")
        clients = []
        for shop in shops:
            data, invite, tap = root / shop.file, root / f"{shop.name}.invite", root / f"{shop.name}.tap"
            shop.frame().to_csv(data, index=False)
            made = start("invite", *server, "invite", shop.name, *here, "--out", invite, "--address", address)
            assert made.wait(120) == 0
            command = (HERE / "captured_client.py", tap, "--server", address, "--invite", invite, *same)
            own = ("--data", data, "--until", "2024-05-31", "--home", root / "homes" / shop.name, "--device", "cpu")
            clients.append(start(shop.name, *command, *own))
        deadline = time.monotonic() + 500
        while any(one.poll() is None for one in clients) and not any(one.poll() for one in running):
            assert time.monotonic() < deadline, "the federation takes too long"
            time.sleep(0.1)
        codes = [one.poll() for one in clients]
        logs = {path.stem: path.read_text("utf-8", errors="replace") for path in root.glob("*.log")}
        assert codes == [0] * len(shops), logs
        yield [
            read_tap(
                root / f"{shop.name}.tap",
                Capture(kind, shop, root / "homes" / shop.name, root / "state" / shop.name, logs[shop.name]),
            )
            for shop in shops
        ]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=20)


pytestmark = pytest.mark.timeout(700)


# --- strict reading ---


@dataclass(frozen=True)
class Request:
    """One HTTP request, taken apart to the last byte."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def requests_of(stream: bytes) -> Iterator[Request]:
    """HTTP/1.1 with a length, and nothing before, between or after."""
    while stream:
        head, _, rest = stream.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        match = re.fullmatch(r"POST (/v1/[a-z/-]+) HTTP/1\.1", first)
        assert match, first
        headers = tuple((name.lower(), value) for name, value in (line.split(": ", 1) for line in lines))
        size = int(dict(headers)["content-length"])
        assert len(rest) >= size, "a request ends within its body"
        yield Request(match[1], headers, rest[:size])
        stream = rest[size:]


HEADERS = {
    "host": r"127\.0\.0\.1:\d+",
    "accept": r"\*/\*|application/protobuf",
    "accept-encoding": r"gzip, deflate",
    "connection": r"keep-alive",
    "user-agent": r"python-httpx/[\d.]+",
    "content-type": r"application/(json|protobuf)",
    "content-length": r"\d+",
    "flwr-public-key": r"[A-Za-z0-9+/]+={0,2}",
    "flwr-timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00",
    "flwr-signature": r"[A-Za-z0-9+/]+={0,2}",
}

BODIES: dict[str, tuple[type[Proto], set[str]]] = {
    "/v1/fleet/activate-node": (fleet_pb2.ActivateNodeRequest, {"public_key", "heartbeat_interval"}),
    "/v1/fleet/deactivate-node": (fleet_pb2.DeactivateNodeRequest, {"node_id"}),
    "/v1/fleet/send-node-heartbeat": (heartbeat_pb2.SendNodeHeartbeatRequest, {"node", "heartbeat_interval"}),
    "/v1/fleet/pull-messages": (fleet_pb2.PullMessagesRequest, {"node"}),
    "/v1/fleet/get-run": (run_pb2.GetRunRequest, {"node", "run_id"}),
    "/v1/fleet/pull-object": (message_pb2.PullObjectRequest, {"node", "run_id", "object_id"}),
    "/v1/fleet/push-messages": (
        fleet_pb2.PushMessagesRequest,
        {"node", "messages_list", "message_object_trees", "clientapp_runtime_list"},
    ),
    "/v1/fleet/push-object": (
        message_pb2.PushObjectRequest,
        {"node", "run_id", "object_id", "object_content", "session_id"},
    ),
}
"""Path → message and the fields that it may have."""

METADATA = {
    *("run_id", "message_id", "src_node_id", "dst_node_id", "dst_task_id", "reply_to_message_id"),
    *("ttl", "message_type", "created_at"),
}
"""Numbers and ids that the server gave, and two times: when the answer was ready, and how long the server waits."""


def fields_of(message: Proto) -> set[str]:
    return {descriptor.name for descriptor, _ in message.ListFields()}


def no_unknown_fields(message: Proto) -> None:
    """At any depth: protobuf keeps what it does not know, and writes it out again."""
    assert len(UnknownFieldSet(message)) == 0
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for one in [value] if isinstance(value, Proto) else value:
                no_unknown_fields(one)


def exactly(kind: type[Proto], data: bytes, allowed: set[str]) -> Any:
    """``data`` as that message, with allowed fields only and no byte besides."""
    message = kind.FromString(data)
    no_unknown_fields(message)
    assert fields_of(message) <= allowed
    assert message.SerializeToString(deterministic=True) == data
    return message


@dataclass
class Reading:
    """What the requests of one client say."""

    kinds: list[tuple[str, int]] = field(default_factory=list)
    enrolled: list[EnrolRequest] = field(default_factory=list)
    public_keys: set[bytes] = field(default_factory=set)
    nodes: set[int] = field(default_factory=set)
    headers: list[Any] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)


def read(capture: Capture) -> Reading:
    """Parse every request; raises on whatever is not on the allow-list."""
    found = Reading()
    for stream in capture.streams.values():
        for request in requests_of(stream):
            for name, value in request.headers:
                assert re.fullmatch(HEADERS[name], value), (name, value)
                if name == "flwr-public-key":
                    found.public_keys.add(base64.b64decode(value))
            if request.path == ENROL_PATH:
                told = parse(EnrolRequest, request.body.decode("ascii"))
                assert told.canonical().encode() == request.body
                found.enrolled.append(told)
                found.kinds.append((request.path, len(request.body)))
                continue
            kind, allowed = BODIES[request.path]
            message = exactly(kind, request.body, allowed)
            if "node" in fields_of(message):
                assert fields_of(message.node) == {"node_id"}
                found.nodes.add(message.node.node_id)
            if request.path.endswith("/push-messages"):
                found.headers.append(message)
            if request.path.endswith("/pull-object"):
                if message.object_id in found.asked:
                    continue  # asked again, since the server did not have it whole yet
                found.asked.add(message.object_id)
            if request.path.endswith("/push-object"):
                assert hashlib.sha256(message.object_content).hexdigest() == message.object_id
                found.objects[message.object_id] = message.object_content
                continue
            found.kinds.append((request.path, size_without_names(message)))
    return found


def size_without_names(message: Any) -> int:
    """Length of a message, with the random numbers that Flower names nodes, runs and tasks by at one length."""
    same = type(message)()
    same.CopyFrom(message)
    parts = [same]
    if "node" in fields_of(message):
        parts.append(same.node)
    if "metadata" in fields_of(message):
        parts.append(same.metadata)
    parts += [one.metadata for one in getattr(same, "messages_list", [])]
    for one in parts:
        for name in ("node_id", "run_id", "src_node_id", "dst_node_id", "dst_task_id"):
            if name in one.DESCRIPTOR.fields_by_name:
                setattr(one, name, 1)
    return len(same.SerializeToString())


@dataclass(frozen=True)
class Answer:
    """One answer of the protocol, as it was on the wire; ``sizes`` are those of model, payload and header."""

    action: str
    model: WireModel
    payload: bytes | None
    sizes: tuple[int, int, int]

    @property
    def noted(self) -> bytes:
        """What the list of sent messages hashes."""
        return self.model.canonical().encode() + (self.payload or b"")


MODELS: dict[str, type[WireModel]] = {
    "query.describe": DescribeReply,
    "train": TrainReply,
    "query.adopt": AdoptReply,
    "query.keys": KeysReply,
    "query.shares": SharesReply,
    "train.masked": TrainReply,
    "query.confirm": ConfirmReply,
    "query.unmask": UnmaskReply,
}


def size_without_signatures(model: WireModel) -> int:
    """Length of the JSON with every ECDSA signature at one length: DER makes it vary by a few bytes, by chance."""
    return len(re.sub(r'"signature":"[^"]+"', '"signature":""', model.canonical()))


def answers_of(reading: Reading, store: dict[str, bytes]) -> list[Answer]:
    """The answers, put together from their objects; every object must belong to one, byte for byte.

    ``store`` is what the server has: it does not ask twice for the same bytes, whichever client they came from.
    """
    left, found = set(reading.objects), []
    for request in reading.headers:
        assert list(request.clientapp_runtime_list) == [0.0], "the time that the app took stays here"
        (header,), (tree,) = request.messages_list, request.message_object_trees
        assert fields_of(header) <= {"metadata", "content"}
        assert fields_of(header.metadata) <= METADATA
        assert header.metadata.src_node_id in reading.nodes
        assert header.metadata.message_id == tree.object_id
        assert header.metadata.reply_to_message_id in reading.asked
        assert not header.content.items
        ids = [node.object_id for node in iterate_object_tree(tree)]
        message = inflate_object_from_contents(tree.object_id, {one: store[one] for one in ids})
        assert isinstance(message, Message)
        action = message.metadata.message_type
        model, _ = unpack(message.content, MODELS[action], tensors=None)
        payload = message.content["body"].get("tensors")
        # Record and message, written again from what was understood of them, are those that were sent.
        again = get_all_nested_objects(pack(model, payload)) | {tree.object_id: message}
        assert {name: one.deflate() for name, one in again.items()} == {name: store[name] for name in ids}
        assert message_of(store[tree.object_id]).metadata == without_id(header.metadata)
        left -= set(ids)
        sizes = (size_without_signatures(model), len(payload or b""), size_without_names(header))
        found.append(Answer(action, model, payload, sizes))
    assert not left, "objects that belong to no answer"
    return found


def message_of(content: bytes) -> Any:
    """The protobuf message in a Message object: a head of known form, and then nothing but the message."""
    head, _, body = content.partition(b"\x00")
    assert re.fullmatch(rb"Message [0-9a-f]{64} %d" % len(body), head)
    return exactly(message_pb2.Message, body, {"metadata"})


def without_id(metadata: Any) -> Any:
    """The metadata of a header, as its object holds them."""
    same = type(metadata)()
    same.CopyFrom(metadata)
    same.message_id = ""
    return same


# --- what was sent ---


def everything(captures: list[Capture]) -> tuple[list[Reading], list[list[Answer]]]:
    """Requests and answers of all clients."""
    readings = [read(capture) for capture in captures]
    store = {name: content for reading in readings for name, content in reading.objects.items()}
    return readings, [answers_of(reading, store) for reading in readings]


def test_clients_talk_to_their_server_over_tls_and_to_nobody_else(captures: list[Capture]) -> None:
    for capture in captures:
        kinds = [record["event"] for record in capture.events]
        assert set(kinds) == {"socket.getaddrinfo", "socket.connect", "tls"}
        assert kinds.count("socket.connect") == kinds.count("tls") == len(capture.streams), (
            "nothing went in the clear"
        )
        assert {record["where"] for record in capture.events if record["event"] == "socket.getaddrinfo"} == {
            "'127.0.0.1'"
        }
        assert len({record["where"] for record in capture.events if record["event"] != "socket.getaddrinfo"}) == 1


def test_every_byte_is_on_the_allow_list(captures: list[Capture]) -> None:
    readings, answered = everything(captures)
    for capture, reading, answers in zip(captures, readings, answered, strict=True):
        assert len(reading.enrolled) == 1, "the invitation's token and the public key, once"
        assert len(reading.public_keys) == 1
        assert len(reading.nodes) == 1
        actions = ["query.describe", *ROUND[capture.kind] * ROUNDS, "query.adopt"]
        assert [one.action for one in answers] == actions
        assert answers[0].model == DescribeReply(answer="accepted", bucket="S")
        assert answers[-1].model == AdoptReply()
        trained = [one for one in answers if one.action.startswith("train")]
        assert [one.model.model_dump() for one in trained] == [
            {"answer": "delta", "federation": "federation-1", "round": number} for number in range(1, ROUNDS + 1)
        ]
        assert all((one.payload is not None) == (one in trained) for one in answers)


def test_a_payload_is_the_noised_adapter_of_the_plan_as_it_was_sealed_and_nothing_besides(
    captures: list[Capture],
) -> None:
    for capture, answers in zip(captures, everything(captures)[1], strict=True):
        path = capture.home / "federations" / "federation-1" / "plan.json"
        plan = parse(FederationPlan, path.read_text("utf-8"))
        assert plan.privacy is not None
        sealed = [path.read_bytes() for path in sorted((capture.home / "ledger" / "ledger-sealed").iterdir())]
        payloads = [one.payload for one in answers if one.payload is not None]
        assert len(payloads) == len(sealed) == ROUNDS
        if capture.kind == "plain":
            assert sealed == payloads
        for payload, content in zip(payloads, sealed, strict=True):
            tensors = tensors_from_bytes(payload)
            assert tensors_to_bytes(tensors) == payload, "metadata or bytes that are no tensor"
            if capture.kind == "secure":
                # Under masks, the noised adapter inside is not to be seen at all.
                (masked,), (inside,) = tensors.values(), tensors_from_bytes(content).values()
                assert (masked.dtype, masked.shape) == (np.uint32, (plan.adapter.parameters,))
                assert (masked == inside).mean() < 0.01
                continue
            delta = decode_int8(tensors, plan.adapter.tensors)
            flat = np.concatenate([value.ravel() for value in delta.values()])
            bucket = plan.privacy.buckets["S"]
            noise = bucket.noise_multiplier * plan.privacy.clip / bucket.expected_batch
            assert 0.8 * noise < flat.std() < 1.5 * noise


def hide_a_header(request: Request) -> Request:
    return replace(request, headers=(*request.headers, ("x-rows", "58")))


def hide_a_field(request: Request) -> Request:
    """Field 99, a varint: unknown to every message, and kept by protobuf."""
    return request if request.path == ENROL_PATH else replace(request, body=request.body + b"\x98\x06\x3a")


def hide_a_time(request: Request) -> Request:
    if not request.path.endswith("/push-messages"):
        return request
    message = fleet_pb2.PushMessagesRequest.FromString(request.body)
    message.clientapp_runtime_list[0] = 1.5
    return replace(request, body=message.SerializeToString(deterministic=True))


@pytest.mark.parametrize("hide", [hide_a_header, hide_a_field, hide_a_time])
def test_the_reader_finds_what_is_hidden(captures: list[Capture], hide: Callable[[Request], Request]) -> None:
    """A reader that lets something pass would make this whole module worthless."""

    def written(request: Request) -> bytes:
        headers = dict(request.headers) | {"content-length": str(len(request.body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {request.path} HTTP/1.1\r\n{lines}\r\n".encode() + request.body

    def rewritten(capture: Capture, change: Callable[[Request], Request]) -> Capture:
        streams = {
            number: b"".join(written(change(request)) for request in requests_of(stream))
            for number, stream in capture.streams.items()
        }
        return replace(capture, streams=streams)

    everything([rewritten(capture, lambda request: request) for capture in captures])
    with pytest.raises((AssertionError, KeyError)):
        everything([rewritten(capture, hide) for capture in captures])


def test_metadata_in_a_file_of_tensors_would_show() -> None:
    tensors = {"int8": np.zeros(3, np.int8)}
    hidden = save(tensors, metadata={"rows": "58"})
    assert tensors_to_bytes(tensors_from_bytes(hidden)) != hidden
    assert tensors_to_bytes(tensors_from_bytes(save(tensors))) == save(tensors)


def test_no_word_or_number_of_the_sales_is_in_the_bytes(captures: list[Capture]) -> None:
    for capture in captures:
        sent = b"".join(capture.streams.values()).lower()
        assert b"federation-1" in sent, "the test looks into what was really sent"
        for secret in [*capture.shop.secrets, str(capture.home), capture.shop.name]:
            text = secret.lower()
            for form in (text.encode(), text.encode("utf-16-le"), base64.b64encode(secret.encode()).lower()):
                assert form not in sent, secret


def test_retailers_of_other_size_scale_and_names_send_messages_of_the_same_kinds_and_sizes(
    captures: list[Capture],
) -> None:
    """All but how often they say that they are there, which is a matter of time (docs/privacy.md lists it)."""
    clocks = ("/pull-messages", "/send-node-heartbeat")
    readings, answered = everything(captures)
    first, *others = (sorted(kind for kind in reading.kinds if not kind[0].endswith(clocks)) for reading in readings)
    assert len(first) > 12
    assert others == [first] * len(others)
    beats = {kind for reading in readings for kind in reading.kinds if kind[0].endswith(clocks)}
    assert beats <= {("/v1/fleet/pull-messages", 4), ("/v1/fleet/send-node-heartbeat", 13)}
    shape, *shapes = ([(answer.action, answer.sizes) for answer in answers] for answers in answered)
    assert shapes == [shape] * len(shapes)


def test_the_list_of_sent_messages_is_the_whole_list(captures: list[Capture]) -> None:
    for capture, answers in zip(captures, everything(captures)[1], strict=True):
        (head,) = capture.state.rglob("sent-head.json")
        noted = read_sent(capture.home / "ledger" / "sent.jsonl", head_path=head)
        assert [one.kind for one in noted] == ["enrol", "describe", *NOTED[capture.kind] * ROUNDS, "adopt"]
        hashes = [hashlib.sha256(one.noted).hexdigest() for one in answers]
        assert [one.sha256 for one in noted[1:]] == hashes


def test_logs_and_the_ledger_hold_no_sales(captures: list[Capture]) -> None:
    """What a person might hand on: the screen, the log, the ledger, the lists; not what says it is private."""
    for capture in captures:
        private = {capture.home / "output", capture.home / "data.json", capture.home / "basis.json"}
        texts = {"screen": capture.screen.replace(capture.shop.file, "").encode()}
        for path in capture.home.rglob("*"):
            if path.is_file() and not any(one == path or one in path.parents for one in private):
                texts[str(path.relative_to(capture.home))] = path.read_bytes()
        assert {"policy.toml", "ledger/ledger.jsonl", "ledger/sent.jsonl"} <= set(texts)
        for name, text in texts.items():
            found = [secret for secret in capture.shop.secrets if secret.encode() in text]
            assert not found, f"{name} holds {found[:3]}"


def test_files_with_private_data_are_named_in_the_report_and_their_owners_alone(captures: list[Capture]) -> None:
    if captures[0].kind == "secure":
        pytest.skip("the part after the federation is run once, in the plain one")
    for capture in captures:
        files = [path for path in capture.home.rglob("*") if path.is_file() and path.suffix != ".lock"]
        report = (capture.home / "output" / "report.html").read_text("utf-8")
        assert "This report contains private sales data" in report
        text = report.split("Files that hold private data")[1].split("</section>")[0]
        private, public = text.split("Without private data")
        assert "In the folder of this report" in private
        named = set(re.findall(r"<samp>([\w.]+)</samp>", private))
        holding = {
            path.name
            for path in files
            if path.parent != capture.home / "output"
            and any(secret.encode() in path.read_bytes() for secret in capture.shop.secrets)
        }
        trained = {path.name for path in files if path.stem == "personal"}
        assert len(trained) == 2
        assert holding | trained <= named
        assert named <= {path.name for path in files}
        assert set(re.findall(r"\w+\.jsonl", public)) == {"ledger.jsonl", "sent.jsonl"}
        if os.name != "nt":
            assert {path.name for path in files if path.stat().st_mode & 0o077} == set()
