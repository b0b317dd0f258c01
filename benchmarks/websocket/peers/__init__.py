"""Everybody who can be measured, by name, in the order of the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.websocket.peers import stdin_server
from benchmarks.websocket.peers.carillon import Carillon
from benchmarks.websocket.peers.centrifugo import Centrifugo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.websocket.peer import Peer

FLOOR: Final = "c"
"""The peer that the others are compared with."""

PEERS: Final[Mapping[str, Callable[[], Peer]]] = {
    FLOOR: stdin_server.c,
    "c-coalesced": stdin_server.c_coalesced,
    "carillon": Carillon,
    "ws": stdin_server.node_ws,
    "socket.io": stdin_server.socket_io,
    "python-socketio": stdin_server.python_socketio,
    "centrifugo": Centrifugo,
}
