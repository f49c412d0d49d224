"""A TCP proxy in front of PostgreSQL that cuts a connection at the answer to a COMMIT: the moment nobody can be sure of.

``cut_next("answered")`` lets the server commit and swallows what it says; ``cut_next("sent")`` hangs up when a writer's next
piece has been passed on, whatever the server makes of it; ``cut_next("unsent")`` hangs up instead of passing it on.
"""

from __future__ import annotations

import contextlib
import socket
import threading

COMMITTED = b"COMMIT\x00"
SYNC = b"S\x00\x00\x00\x04"


class CuttingProxy:
    """Listens on a free port of the loopback, and passes everything on to the server's port until told otherwise."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._lock = threading.Lock()
        self._next: str | None = None
        self._open: set[socket.socket] = set()
        self.cuts = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_next(self, mode: str) -> None:
        """Cut the next writer at its commit."""
        with self._lock:
            self._next = mode

    def _due(self, *modes: str) -> bool:
        with self._lock:
            if self._next not in modes:
                return False
            self._next = None
            self.cuts += 1
            return True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._open |= {client, server}
                _Pair(self, client, server)

    def close(self) -> None:
        """Hang up everywhere."""
        self._listening.close()
        for each in list(self._open):
            hang_up(each)


class _Pair:
    """One connection through the proxy."""

    def __init__(self, proxy: CuttingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._writes = False
        for run in (self._to_server, self._to_client):
            threading.Thread(target=run, daemon=True).start()

    def _hang_up(self) -> None:
        hang_up(self._client)
        hang_up(self._server)

    def _to_server(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(1 << 16):
                ends = self._writes and data.endswith(SYNC)
                if ends and self._proxy._due("unsent"):
                    break
                self._server.sendall(data)
                if ends and self._proxy._due("sent"):
                    break
        self._hang_up()

    def _to_client(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(1 << 16):
                if COMMITTED in data:
                    self._writes = True
                    if self._proxy._due("answered"):
                        break
                self._client.sendall(data)
        self._hang_up()


def hang_up(end: socket.socket) -> None:
    """Close a socket under whoever reads it."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
