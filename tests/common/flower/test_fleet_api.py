"""Calls of the Fleet API as an attacker would make them: every one is authenticated, whatever stands around it."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TIMESTAMP_HEADER
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.error import FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.servicer.control import control_handlers

from trend_common.flower.bundle import FAB_BYTES, FAB_SHA256
from trend_common.flower.environment import quiet_logs
from trend_common.flower.fleet_api import _check_answer
from trend_common.flower.gate import FLEET_PATHS
from trend_common.flower.link import Link, _forget_uploads
from trend_server.certificates import ensure_certificates

PROTOBUF = {"content-type": "application/protobuf"}


@dataclass
class World:
    """A server that admits two keys."""

    link: Link
    client: httpx.Client
    keys: list[ec.EllipticCurvePrivateKey]
    nodes: list[int]

    def headers(self, number: int, *, age: float = 0.0, signer: int | None = None) -> dict[str, str]:
        """As Flower's client signs a request."""
        stamp = (now() - datetime.timedelta(seconds=age)).isoformat()
        signature = sign_message(self.keys[number if signer is None else signer], stamp.encode("ascii"))
        return {
            **PROTOBUF,
            FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(
                public_key_to_bytes(self.keys[number].public_key())
            ).decode(),
            FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode(),
            TIMESTAMP_HEADER: stamp,
        }

    def body(self, path: str, number: int) -> bytes:
        """The least request of a kind in the name of a client."""
        message: Any = PROTOBUF_REQUEST_TYPES["POST", path]()
        if hasattr(message, "public_key"):
            message.public_key = public_key_to_bytes(self.keys[number].public_key())
        elif hasattr(message, "node"):
            message.node.node_id = self.nodes[number]
        else:
            message.node_id = self.nodes[number]
        return bytes(message.SerializeToString())

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """Call."""
        return self.client.post(path, content=body, headers=headers)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    quiet_logs()
    folder: Path = tmp_path_factory.mktemp("tls")
    made = ensure_certificates(folder, ["127.0.0.1"])
    link = Link(
        host="127.0.0.1",
        port=0,
        certificate=made.certificate,
        private_key=made.private_key,
        enrol=lambda body: (403, {"code": "unknown"}),
        hold=0.05,
    )
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)]
    nodes = [link.register(key.public_key(), f"client-{number}") for number, key in enumerate(keys)]
    context = ssl.create_default_context(cafile=str(made.authority))
    with link, httpx.Client(base_url=f"https://127.0.0.1:{link.port}", verify=context, trust_env=False) as client:
        yield World(link, client, keys, nodes)


@pytest.mark.parametrize("path", sorted(FLEET_PATHS))
def test_every_call_wants_the_signature_of_the_client_it_speaks_for(world: World, path: str) -> None:
    body = world.body(path, 0)
    forged = {
        "none": PROTOBUF,
        "another's signature": world.headers(0, signer=1),
        "another client": world.headers(1),
        "an old one": world.headers(0, age=3600),
        "of the future": world.headers(0, age=-3600),
        "cut off": {**world.headers(0), FLEET_HTTP_SIGNATURE_HEADER: "AAAA"},
    }
    for name, headers in forged.items():
        answer = world.post(path, body, headers)
        stranger = name == "none" and path.endswith("activate-node") and not path.endswith("deactivate-node")
        assert answer.status_code == (403 if stranger else 401), name
    assert world.post(path, body, world.headers(0)).status_code != 401, "else the refusals would prove nothing"


def test_an_honest_call_is_answered_by_flower(world: World) -> None:
    path = "/v1/fleet/activate-node"
    request = ActivateNodeRequest(public_key=public_key_to_bytes(world.keys[1].public_key()), heartbeat_interval=10.0)
    answer = world.post(path, request.SerializeToString(), world.headers(1))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == PROTOBUF["content-type"]
    assert ActivateNodeResponse.FromString(answer.content).node_id == world.nodes[1]


@pytest.mark.parametrize("call", ["push-messages", "push-object", "pull-object", "get-run"])
def test_an_answer_to_a_run_before_a_restart_comes_to_nothing(world: World, call: str) -> None:
    """Not to an error of the server, at which a client would try again for ever."""
    path = f"/v1/fleet/{call}"
    message: Any = PROTOBUF_REQUEST_TYPES["POST", path]()
    message.node.node_id = world.nodes[0]
    if call == "push-messages":
        message = answer_of(world, 0)
        message.messages_list[0].metadata.run_id = 12345
    else:
        message.run_id = 12345
    answer = world.post(path, message.SerializeToString(), world.headers(0))
    assert 400 <= answer.status_code < 500
    assert FlowerError.from_json(answer.text) is not None


def answer_of(world: World, number: int) -> Any:
    """A push of one message in a client's own name, of one part."""
    message: Any = PROTOBUF_REQUEST_TYPES["POST", "/v1/fleet/push-messages"]()
    message.node.node_id = world.nodes[number]
    message.messages_list.add().metadata.src_node_id = world.nodes[number]
    message.message_object_trees.add().object_id = "a" * 64
    return message


def test_nobody_answers_in_another_s_name_or_of_parts_of_themselves(world: World) -> None:
    _check_answer(answer_of(world, 0))
    other = answer_of(world, 0)
    other.messages_list[0].metadata.src_node_id = world.nodes[1]
    twice = answer_of(world, 0)
    twice.messages_list.add().metadata.src_node_id = world.nodes[0]
    bare = answer_of(world, 0)
    del bare.message_object_trees[:]
    looped = answer_of(world, 0)
    child = looped.message_object_trees[0].children.add(object_id="b" * 64)
    child.children.add(object_id="a" * 64)
    wide = answer_of(world, 0)
    for part in range(64):
        wide.message_object_trees[0].children.add(object_id=f"{part:064x}")
    for message in (other, twice, bare, looped, wide):
        with pytest.raises(FlowerError):
            _check_answer(message)
        answer = world.post("/v1/fleet/push-messages", message.SerializeToString(), world.headers(0))
        assert 400 <= answer.status_code < 500


def test_only_what_was_handed_out_can_be_fetched(world: World) -> None:
    """By its hash any client could ask for parts of another's answer."""
    state = world.link._state
    request = StartRunRequest(fab=Fab(hash_str=FAB_SHA256, content=FAB_BYTES))
    account = AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
    run = control_handlers.start_run(request, account, state, None).run_id
    assert world.link._state.object_store.lock_store is state.lock is state._lock_object_push_sessions
    tree = ObjectTree(object_id=hashlib.sha256(b"secret").hexdigest())
    state.object_store.preregister(run, tree)
    state.object_store.store[tree.object_id].content = b"secret"
    state.object_store.store[tree.object_id].is_available = True
    pull: Any = PROTOBUF_REQUEST_TYPES["POST", "/v1/fleet/pull-object"]()
    pull.node.node_id, pull.run_id, pull.object_id = world.nodes[0], run, tree.object_id
    assert state.get_object(run, tree.object_id) == b"secret"
    answer = world.post("/v1/fleet/pull-object", pull.SerializeToString(), world.headers(0))
    assert answer.status_code == 200
    assert not PullObjectResponse.FromString(answer.content).object_found


def test_an_upload_that_was_begun_and_never_finished_is_let_go(world: World) -> None:
    state = world.link._state
    try:
        names = [state.start_session(7) for _ in range(3)]
        state._object_push_sessions[names[0]].expires_at = now() - datetime.timedelta(seconds=1)
        _forget_uploads(state)
        assert names[0] not in state._object_push_sessions
        assert set(names[1:]) <= set(state._object_push_sessions)
    finally:
        state.delete_sessions_in_run(7)


def test_what_is_no_message_is_refused(world: World) -> None:
    path, body = "/v1/fleet/pull-messages", world.body("/v1/fleet/pull-messages", 0)
    broken = world.post(path, b"\xff\xff\xff", world.headers(0))
    assert 400 <= broken.status_code < 500
    assert "code" in broken.json()
    empty = world.post("/v1/fleet/push-messages", world.body("/v1/fleet/push-messages", 0), world.headers(0))
    assert 400 <= empty.status_code < 500
    text = world.post(path, body, {**world.headers(0), "content-type": "text/plain"})
    assert 400 <= text.status_code < 500


def test_a_host_header_leads_to_no_other_call(world: World) -> None:
    """A URL is put together from it, and the path of that URL would be the attacker's."""
    path = "/v1/fleet/send-node-heartbeat"
    for other in ("register-node", "get-fab", "deactivate-node"):
        headers = {**world.headers(0), "host": f"x/v1/fleet/{other}?"}
        honest = world.post(path, world.body(path, 0), world.headers(0))
        assert world.post(path, world.body(path, 0), headers).status_code in (honest.status_code, 400)
