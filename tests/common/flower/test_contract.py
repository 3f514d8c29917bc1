"""What we use of Flower's internals is still there, with the names and arguments that we rely on.

When this fails after an upgrade of flwr, read the message, look at what moved, and change
``common/trend_common/flower``: nothing else touches internals.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import subprocess
import sys

import pytest

PINNED = "1.41.0"

USED = {
    "flwr.app.message": {"remove_content_from_message": ["message"]},
    "flwr.common.constant": {
        "HEARTBEAT_DEFAULT_INTERVAL": None,
        "NOOP_ACCOUNT_NAME": None,
        "NOOP_FLWR_AID": None,
        "SUPERLINK_NODE_ID": None,
        "TRANSPORT_TYPE_GRPC_RERE": None,
        "SubStatus": None,
        "ErrorCode": None,
    },
    "flwr.common.serde": {"message_from_proto": ["message_proto"], "message_to_proto": ["message"]},
    "flwr.supercore.auth.typing": {"AccountInfo": ["flwr_aid", "account_name"]},
    "flwr.supercore.constant": {
        "NodeStatus": None,
        "FLEET_HTTP_PUBLIC_KEY_HEADER": None,
        "FLWR_IN_MEMORY_DB_NAME": None,
    },
    "flwr.supercore.error": {"ApiErrorCode": None, "FlowerError": None},
    "flwr.supercore.error.http": {"http_error_translator": ["request", "call_next"]},
    "flwr.supercore.inflatable.inflatable_object": {
        "get_all_nested_objects": ["obj"],
        "get_object_tree": ["obj"],
        "iterate_object_tree": ["tree"],
        "no_object_id_recompute": [],
    },
    "flwr.supercore.inflatable.inflatable_utils": {
        "ObjectPullError": ["object_id", "reason"],
        "ObjectPushError": ["object_id", "run_id", "session_id"],
        "ObjectUnavailableError": ["object_id"],
        "inflate_object_from_contents": ["object_id", "object_contents"],
        "pull_and_inflate_object_from_tree": ["object_tree", "pull_object_fn", "confirm_object_received_fn"],
        "push_objects": ["objects", "push_object_fn"],
    },
    "flwr.supercore.object_store": {"NoObjectInStoreError": None},
    "flwr.supercore.primitives.asymmetric": {"public_key_to_bytes": ["public_key"]},
    "flwr.supercore.run": {"Run": None},
    "flwr.supercore.task_identity": {"TaskIdentity": None},
    "flwr.supernode.fleet_http_client": {"FleetHttpClient": ["base_url"]},
    "flwr.supernode.node_auth_http_interceptor": {"NodeAuthHttpInterceptor": ["private_key", "public_key"]},
    "flwr.superlink.auth_plugin": {"NoOpControlAuthnPlugin": None},
    "flwr.superlink.config_loader": {"SuperLinkLifespanConfig": None},
    "flwr.supercore.protobuf.constants": {"PROTOBUF_MEDIA_TYPE": None},
    "flwr.supercore.protobuf.translation": {"PROTOBUF_REQUEST_TYPES": None},
    "flwr.superlink.routers.fleet.node_auth": {"authenticate_node": ["request"]},
    "flwr.superlink.servicer.fleet.fleet_handlers": {
        "activate_node": ["request", "state"],
        "deactivate_node": ["request", "state"],
        "get_run": ["request", "state"],
        "pull_messages": ["request", "state", "store"],
        "pull_object": ["request", "state"],
        "push_messages": ["request", "state"],
        "push_object": ["request", "state"],
        "send_node_heartbeat": ["request", "state"],
    },
    "flwr.superlink.main": {"create_app": ["config", "superlink_lifespan_class"]},
    "flwr.superlink.servicer.control.control_handlers": {
        "start_run": ["request", "account", "state", "fleet_api_type"]
    },
}

STATE_METHODS = {
    "acknowledge_task_heartbeat": ["task_id"],
    "activate_task": ["task_id"],
    "claim_task": ["task_id"],
    "cleanup_run": ["run_id"],
    "create_node": ["owner_aid", "owner_name", "public_key", "heartbeat_interval"],
    "delete_messages": ["message_ins_ids"],
    "delete_node": ["owner_aid", "node_id"],
    "finish_task": ["task_id", "sub_status", "details"],
    "get_message_res": ["message_ids", "run_id"],
    "get_node_id_by_public_key": ["public_key"],
    "get_node_info": [],
    "get_object": ["run_id", "object_id"],
    "get_run_info": [],
    "start_session": ["run_id"],
    "store_message_and_object_tree": ["message", "object_tree", "session_id"],
    "store_object": ["run_id", "session_id", "object_id", "object_content"],
}

FLEET_CALLS = {
    "ActivateNode": "/v1/fleet/activate-node",
    "DeactivateNode": "/v1/fleet/deactivate-node",
    "SendNodeHeartbeat": "/v1/fleet/send-node-heartbeat",
    "PullMessages": "/v1/fleet/pull-messages",
    "PushMessages": "/v1/fleet/push-messages",
    "GetRun": "/v1/fleet/get-run",
    "PushObject": "/v1/fleet/push-object",
    "PullObject": "/v1/fleet/pull-object",
}


def arguments(thing: object) -> list[str]:
    """The names of the positional arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [p.name for p in inspect.signature(thing).parameters.values() if p.kind in kinds]  # type: ignore[arg-type]
    return [name for name in found if name != "self"]


def test_flower_is_the_version_that_was_read() -> None:
    found = importlib.metadata.version("flwr")
    assert found == PINNED, (
        f"flwr {found} is installed; trend_common.flower was written against {PINNED}. Read what changed, adapt it, "
        "then change the pin in pyproject.toml and here together."
    )


@pytest.mark.parametrize("module", USED)
def test_internals_are_where_they_were(module: str) -> None:
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        pytest.fail(f"Flower moved {module}, which trend_common.flower uses: {error}")
    for name, wanted in USED[module].items():
        assert hasattr(found, name), f"Flower moved {module}.{name}, which trend_common.flower uses"
        if wanted is not None:
            have = arguments(getattr(found, name))
            assert have[: len(wanted)] == wanted, f"{module}.{name} takes {have}, not {wanted} first"


@pytest.mark.parametrize("name", STATE_METHODS)
def test_the_link_state_has_what_we_call(name: str) -> None:
    from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState

    method = getattr(InMemoryLinkState, name, None)
    assert method is not None, f"Flower's LinkState lost {name}, which link.py and linkgrid.py call"
    have = arguments(method)
    assert have[: len(STATE_METHODS[name])] == STATE_METHODS[name], f"LinkState.{name} takes {have} now"


def test_a_node_is_kept_where_its_number_is_changed() -> None:
    """By :func:`trend_common.flower.link._renumbered`."""
    from flwr.common.constant import NOOP_FLWR_AID
    from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.superlink.federation import NoOpFederationManager

    from trend_common.flower.link import _renumbered

    state = InMemoryLinkState(NoOpFederationManager(), ObjectStoreFactory().store())
    drawn = state.create_node(NOOP_FLWR_AID, "name", b"key", 30.0)
    found = _renumbered(state, drawn, b"key")
    assert found != drawn
    assert state.get_node_id_by_public_key(b"key") == found
    assert [node.node_id for node in state.get_node_info()] == [found]
    other = state.create_node(NOOP_FLWR_AID, "name", b"other", 30.0)
    assert _renumbered(state, other, b"key") == other, "a number that is taken is not given twice"


def test_the_gate_lets_the_client_s_calls_through_and_no_others() -> None:
    from flwr.supernode.fleet_http_client import FleetHttpClient

    from trend_common.flower.gate import FLEET_PATHS, PUBLIC_KEY_HEADER

    for name, path in FLEET_CALLS.items():
        source = inspect.getsource(getattr(FleetHttpClient, name))
        assert f'"{path}"' in source, f"FleetHttpClient.{name} no longer goes to {path}"
    assert frozenset(FLEET_CALLS.values()) == FLEET_PATHS
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

    assert FLEET_HTTP_PUBLIC_KEY_HEADER.encode() == PUBLIC_KEY_HEADER


def test_the_configuration_has_our_fields() -> None:
    from flwr.superlink.config_loader import SuperLinkLifespanConfig

    names = {field.name for field in dataclasses.fields(SuperLinkLifespanConfig)}
    used = {"enable_supernode_auth", "database", "isolation", "simulation", "authn_plugin", "superexec_auth_secret"}
    assert used <= names, f"Flower's configuration lost {sorted(used - names)}"


def test_nothing_calls_home() -> None:
    """The switches stand before Flower is imported, whatever the caller's environment says."""
    code = (
        "import os; os.environ['FLWR_TELEMETRY_ENABLED'] = '1'; os.environ['FLWR_INTERNAL_GRPC_FLEET_API'] = '1'\n"
        "import trend_common.flower.node\n"
        "from flwr.supercore import telemetry\n"
        "assert telemetry.FLWR_TELEMETRY_ENABLED == '0'\n"
        "assert os.environ['FLWR_DISABLE_UPDATE_CHECK'] == '1'\n"
        "assert os.environ['FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION'] == '1'\n"
        "assert os.environ['RAY_USAGE_STATS_ENABLED'] == '0'\n"
        "assert 'FLWR_INTERNAL_GRPC_FLEET_API' not in os.environ\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_client_stays_small_before_torch() -> None:
    """At most 120 MB, and none of the heavy libraries."""
    code = (
        "import sys, trend_common.flower.node, trend_common.flower.enrol_client, trend_common.flower.records\n"
        "heavy = {'torch', 'pandas', 'ray', 'sqlalchemy', 'uvicorn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "status = open('/proc/self/status').read() if sys.platform == 'linux' else 'VmHWM: 0 kB'\n"
        "assert int(status.split('VmHWM:')[1].split()[0]) < 120_000, status\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
