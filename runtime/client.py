"""nats-py's client with its known faults mended. Only runtime/bus.py uses it.

What is changed, and why:
- a message goes straight from the parser to its subscription's handler, on the reader's turn: the stock path
  costs a queue and a task per subscription and 5 to 13 times the CPU per message;
- a PONG that arrives after its flush gave up no longer kills the reader (nats.py 2.16: the stock client stays
  "connected" and deaf for up to six minutes), and a reader that ends for any other reason means reconnect;
- what was queued for a broken connection is dropped, not replayed after its senders were told that it failed;
- a connection that broke is aborted, so that a frozen server cannot hold up the reconnect, and so is one
  that was only half made: nats-py drops it unclosed, a descriptor for every attempt;
- a PING stands behind everything queued before it, or a flush would prove nothing;
- an exception that nats-py does not expect while it reconnects closes the client, instead of leaving it
  neither connected nor closed for ever.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from nats.aio.client import Client
from nats.errors import UnexpectedEOF
from nats.protocol import command
from nats.protocol.parser import PING

from runtime.parser import MessageParser

if TYPE_CHECKING:
    from nats.aio.client import Srv

    from runtime.parser import Follower, Handler


class Subscription:
    """One SUB. The underscored names are what nats-py reads when it subscribes again after a reconnect."""

    __slots__ = ("_id", "_max_msgs", "_queue", "_received", "_subject", "follower", "handler")

    _wait_for_msgs_task = None
    _message_iterator = None
    _pending_next_msgs_calls = None

    def __init__(
        self, sid: int, subject: str, queue: str, handler: Handler, follower: Follower | None = None
    ) -> None:
        self._id = sid
        self._subject = subject
        self._queue = queue
        self._max_msgs = 0
        self._received = 0
        self.handler = handler
        self.follower = follower

    @property
    def sid(self) -> int:
        """The id under which the server knows it."""
        return self._id

    @property
    def queued(self) -> bool:
        """Whether others share its messages."""
        return bool(self._queue)

    def command(self) -> bytes:
        """The SUB line."""
        line: bytes = command.sub_cmd(self._subject, self._queue, self._id)
        return line


class Owner(Protocol):
    """What a client reports to."""

    def handler_failed(self, error: Exception) -> None:
        """A handler raised; the reader goes on."""


class HardenedClient(Client):
    """See the module's docstring."""

    def __init__(self, owner: Owner) -> None:
        super().__init__()
        self._owner = owner
        self._subs: dict[int, Any] = {}
        self._handlers: dict[bytes, Handler] = {}
        self._followers: dict[bytes, Follower] = {}
        self._ps = MessageParser(self, self._handlers, self._followers, owner.handler_failed)

    @property
    def pending_bytes(self) -> int:
        """What has been queued and not yet handed to the socket."""
        return self._pending_data_size

    @property
    def server_version(self) -> str:
        """As the server told it."""
        return str(self._server_info.get("version", ""))

    @property
    def keys_required(self) -> bool:
        """Whether the server lets in nobody without a key, password or certificate."""
        return bool(self._server_info.get("auth_required") or self._server_info.get("tls_verify"))

    @property
    def reader(self) -> asyncio.Task[None] | None:
        """The task that reads from the server, once connected."""
        return self._reading_task

    def send(self, line: bytes) -> None:
        """Queue one protocol message without waiting; `kick` hands the queue to the socket."""
        self._pending.append(line)
        self._pending_data_size += len(line)

    def kick(self) -> None:
        """Wake the flusher. One wake-up carries everything queued so far."""
        queue = self._flush_queue
        if queue is not None and queue.empty() and self.is_connected:
            queue.put_nowait(_WAKE)

    def ping(self) -> asyncio.Future[bool]:
        """Ask for a PONG; done when everything queued before has reached the server."""
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ask_for(pong)
        return pong

    def add(self, subscription: Subscription) -> None:
        """Subscribe now, if connected, and after each reconnect."""
        self._subs[subscription.sid] = subscription
        sid = b"%d" % subscription.sid
        self._handlers[sid] = subscription.handler
        if subscription.follower is not None:
            self._followers[sid] = subscription.follower
        if self.is_connected:
            self.send(subscription.command())

    def remove(self, sid: int) -> None:
        """Unsubscribe."""
        for known in (self._handlers, self._followers):
            known.pop(b"%d" % sid, None)
        if self._subs.pop(sid, None) is not None and self.is_connected:
            self.send(command.unsub_cmd(sid, 0))

    def silence(self, sid: int) -> None:
        """Ask the server for no more; what it sent before still reaches the handler, until `remove`."""
        self.send(command.unsub_cmd(sid, 0))

    async def end(self) -> None:
        """Drop the connection and every task, whatever `close` left of them."""
        abort(self)
        tasks = [self._reading_task, self._ping_interval_task, self._flusher_task, self._reconnection_task]
        running = [task for task in tasks if task is not None and not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=1)

    async def _process_pong(self) -> None:
        if not self._pongs:
            return
        future = self._pongs.pop(0)
        if not future.done():
            future.set_result(True)
        self._pongs_received += 1
        self._pings_outstanding = 0

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        self._ask_for(future or asyncio.get_running_loop().create_future())

    def _ask_for(self, pong: asyncio.Future[bool]) -> None:
        self._pongs.append(pong)
        self.send(PING)
        self.kick()

    async def _read_loop(self) -> None:
        await super()._read_loop()
        if not (self.is_closed or self.is_reconnecting):
            await self._process_op_err(UnexpectedEOF())

    async def _attempt_reconnect(self) -> None:
        self._pending.clear()
        self._pending_data_size = 0
        abort(self)
        try:
            await super()._attempt_reconnect()
        except Exception as error:  # an nkey's seed that is just being replaced, for example
            self._err = error
            self._reconnection_task = None  # this task: closing would cancel it
            await self._close(Client.CLOSED)

    async def _connect_to_server(self, s: Srv) -> None:
        abort(self)
        await super()._connect_to_server(s)


class _Wake:
    """What the flusher takes from its queue; it only asks whether somebody still waits."""

    def done(self) -> bool:
        """Nobody does."""
        return True


_WAKE: Any = _Wake()


def abort(client: HardenedClient) -> None:
    """Drop the TCP connection without waiting for the peer."""
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()
