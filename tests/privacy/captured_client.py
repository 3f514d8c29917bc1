"""The client's own command, with every byte that it hands to the network written to a file beside it.

Run: captured_client.py FILE ARGUMENTS... (those of trend-client). Each line of FILE is JSON: the number of a TLS
connection and bytes that went into it (base64), or an ``event`` of the process: a TLS connection that was opened, an
address that was connected to or sent to, a name that was looked up, a program that was started. The tap is in the
standard library and in the interpreter's audit hooks, below httpx and Flower. With CAPTURE_OFFLINE_PART=0 the client
ends when the federation does, without forecasts and report.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

WATCHED = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "subprocess.Popen": 0,
    "os.exec": 0,
    "os.posix_spawn": 0,
    "os.system": 0,
}
"""Audit event → which of its arguments says where to."""


class Tap:
    """Writes down what leaves."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="ascii")
        self._lock = threading.Lock()
        self._numbers: dict[int, int] = {}
        self._opened = 0

    def note(self, **record: Any) -> None:
        """One line, at once on the disk."""
        with self._lock:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See :func:`sys.addaudithook`."""
        if event in WATCHED:
            self.note(event=event, where=repr(arguments[WATCHED[event]]))

    def opened(self, connection: ssl.SSLSocket) -> None:
        """A new TLS connection. Objects' addresses are used again, numbers are not."""
        self._opened += 1
        self._numbers[id(connection)] = self._opened
        self.note(event="tls", where=repr(connection.getpeername()))

    def sent(self, connection: ssl.SSLSocket, data: Any, count: int) -> None:
        """The first ``count`` bytes of ``data`` went into TLS."""
        part = bytes(memoryview(data).cast("B")[:count])
        self.note(connection=self._numbers[id(connection)], bytes=base64.b64encode(part).decode("ascii"))


def install(tap: Tap) -> None:
    """Put the tap in its place. ``sendall`` goes by way of ``send``."""
    handshake, send, write = ssl.SSLSocket.do_handshake, ssl.SSLSocket.send, ssl.SSLSocket.write

    def tapped_handshake(self: ssl.SSLSocket, block: bool = False) -> None:
        tap.opened(self)
        handshake(self, block)

    def tapped_send(self: ssl.SSLSocket, data: Any, flags: int = 0) -> int:
        count = send(self, data, flags)
        tap.sent(self, data, count)
        return count

    def tapped_write(self: ssl.SSLSocket, data: Any) -> int:
        count = write(self, data)
        tap.sent(self, data, count)
        return count

    ssl.SSLSocket.do_handshake = tapped_handshake  # type: ignore[method-assign]
    ssl.SSLSocket.send = tapped_send  # type: ignore[method-assign]
    ssl.SSLSocket.write = tapped_write  # type: ignore[method-assign]
    sys.addaudithook(tap.hook)


def main() -> None:
    """Install the tap, and run the command."""
    path, *arguments = sys.argv[1:]
    install(Tap(Path(path)))
    sys.argv = ["trend-client", *arguments]
    if os.environ.get("CAPTURE_OFFLINE_PART") == "0":
        from trend_client import join

        join.finish = lambda *_, **__: sys.exit(0)  # type: ignore[assignment]
    from trend_client.cli import main as command

    command()


if __name__ == "__main__":
    main()
