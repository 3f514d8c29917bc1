"""Calls of the Fleet API as an attacker would make them: every one is authenticated, whatever stands around it."""

from __future__ import annotations

import base64
import datetime
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.error import FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from trend_common.flower.environment import quiet_logs
from trend_common.flower.gate import FLEET_PATHS
from trend_common.flower.link import Link
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
        message.messages_list.add().metadata.run_id = 12345
    else:
        message.run_id = 12345
    answer = world.post(path, message.SerializeToString(), world.headers(0))
    assert 400 <= answer.status_code < 500
    assert FlowerError.from_json(answer.text) is not None


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
