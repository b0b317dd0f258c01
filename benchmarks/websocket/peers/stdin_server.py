"""Peers that obey lines on their stdin: the C floor, Node `ws`, Socket.IO, python-socketio."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.websocket import toolchain
from benchmarks.websocket.peer import FRAME_BYTES, Failed, Handshake, Step
from benchmarks.websocket.process import Child, cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE: Final = Path(__file__).parent
START_SECONDS: Final = 20.0

_PLAIN: Final = Handshake()
_ENGINE_IO: Final = Handshake(
    paths=("/socket.io/?EIO=4&transport=websocket",),
    steps=(Step("await", '0{"sid"'), Step("send", "40"), Step("await", '40{"sid"')),
    replies=(("2", "3"),),
)


class StdinServer:
    """Is told ping seconds and frame bytes, says "ready <port>", and sends n messages per line "<n>"."""

    def __init__(
        self, name: str, about: str, command: Callable[[], Sequence[str]], handshake: Handshake, *more: str
    ) -> None:
        self.name = name
        self.about = about
        self.port = 0
        self._make_command = command
        self._command: Sequence[str] = ()
        self._handshake = handshake
        self._more = more
        self._child: Child | None = None

    def prepare(self) -> None:
        """See Peer."""
        self._command = self._make_command()

    def start(self, ping_seconds: int) -> None:
        """See Peer."""
        self._child = Child([*self._command, str(ping_seconds), str(FRAME_BYTES), *self._more], cores()[0])
        line = self._child.hear(START_SECONDS)
        if not line.startswith("ready "):
            raise Failed(f"{self.name} said {line!r}")
        self.port = int(line.removeprefix("ready "))

    def stop(self) -> None:
        """See Peer."""
        if self._child is not None:
            self._child.stop()

    @property
    def pid(self) -> int:
        """See Peer."""
        assert self._child is not None
        return self._child.pid

    def handshake(self, connections: int, rooms: int = 1) -> Handshake:  # noqa: ARG002 - all are alike
        """See Peer."""
        return self._handshake

    def publish(self, count: int) -> None:
        """See Peer."""
        assert self._child is not None
        self._child.tell(str(count))


def c() -> StdinServer:
    """The floor."""
    return StdinServer("c", "C, one send() per frame", _c_command, _PLAIN, "0")


def c_coalesced() -> StdinServer:
    """The floor of a turn with several messages."""
    return StdinServer("c-coalesced", "C, one send() per connection and turn", _c_command, _PLAIN, "1")


def node_ws() -> StdinServer:
    """The usual library on Node."""
    return StdinServer(
        "ws", "Node ws, prepared buffer, send() to each client", lambda: _node("ws.js"), _PLAIN
    )


def socket_io() -> StdinServer:
    """Socket.IO at home."""
    return StdinServer(
        "socket.io", "Socket.IO on Node, io.to(room).emit()", lambda: _node("socketio.js"), _ENGINE_IO
    )


def python_socketio() -> StdinServer:
    """Socket.IO in Python."""
    return StdinServer(
        "python-socketio", "python-socketio on uvicorn and uvloop, emit(room=)", _python_command, _ENGINE_IO
    )


def _c_command() -> Sequence[str]:
    return [str(toolchain.compiled(HERE / "c_server.c"))]


def _node(script: str) -> Sequence[str]:
    # Node looks for modules beside the script, so the script goes where the modules are.
    folder = toolchain.node_folder()
    copy = folder / script
    copy.write_bytes((HERE / script).read_bytes())
    return [toolchain.node(), str(copy)]


def _python_command() -> Sequence[str]:
    return [str(toolchain.python_environment()), str(HERE / "python_socketio_app.py")]
