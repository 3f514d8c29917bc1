"""A Flower app of rounds without work, to be written into a folder and run there."""

from __future__ import annotations

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "emptyround"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "emptyround.apps:server"
clientapp = "emptyround.apps:client"

[tool.flwr.app.config]
clients = 3
rounds = 3
parameters = 9832
out = ""
"""

APPS = """\
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    shape = message.content["arrays"]["b"].numpy().shape
    return Message(RecordDict({"arrays": ArrayRecord({"b": Array(np.zeros(shape, np.float32))})}), reply_to=message)


@server.main()
def main(grid, context):
    settings = context.run_config
    while len(nodes := list(grid.get_node_ids())) < settings["clients"]:
        time.sleep(0.2)
    seconds = []
    for number in range(settings["rounds"]):
        started = time.monotonic()
        content = RecordDict({"arrays": ArrayRecord({"b": Array(np.zeros(settings["parameters"], np.float32))})})
        asked = [Message(content, dst_node_id=node, message_type=MessageType.TRAIN) for node in nodes]
        answers = [one for one in grid.send_and_receive(asked) if not one.has_error()]
        if len(answers) != len(nodes):
            raise RuntimeError(f"{len(answers)} of {len(nodes)} clients answered")
        seconds.append(time.monotonic() - started)
    Path(settings["out"]).write_text(json.dumps({"round_s": seconds}))
"""
