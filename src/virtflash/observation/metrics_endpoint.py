"""Metrics at an address that Prometheus asks."""

import asyncio
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus

from virtflash.logs import Log
from virtflash.observation.exposition import ExpositionError, registry_of
from virtflash.status import Status

CONNECTIONS_MAX = 16  # at once; the oldest goes when one more comes
CONNECTION_SECONDS = 5.0  # from its beginning to its end, whatever is sent
PORT_MAX = 65535
HEAD_BYTES = 8192  # of a request
PLAIN = "text/plain; charset=utf-8"
INDEX = b"virtflash: metrics are at /metrics\n"


class MetricsEndpoint:
    """A small HTTP server: GET /metrics and /, nothing else, one thread, a bounded number of connections.

    `address`: "HOST:PORT"; an IPv6 address in brackets; port 0: any, see `port`. `status` is called in that thread.
    """

    def __init__(self, address: str, status: Callable[[], Status]) -> None:
        self.address = address
        self.port = 0  # once it has started
        self.log = Log("metrics")
        self._status = status
        self._thread: threading.Thread | None = None
        self._ending = asyncio.Event()
        self._open: dict[asyncio.Task[None], None] = {}  # in the order in which they came

    def start(self) -> None:
        """Listen, and answer from now on. ExpositionError: not there."""
        listening = listen(self.address)
        self.port = listening.getsockname()[1]
        self._registry = registry_of(self._status)
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()  # made here: two threads that ask for the first time would make two
        self._thread = threading.Thread(target=self._run, args=(listening,), name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close every connection, and the socket."""
        if self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        self._runner.close()
        self._thread = None

    def _run(self, listening: socket.socket) -> None:
        self._runner.run(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        server = await asyncio.start_server(self._connected, sock=listening, limit=HEAD_BYTES)
        await self._ending.wait()
        server.close()
        for task in self._open:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= CONNECTIONS_MAX:
            next(iter(self._open)).cancel()
        self._open[task] = None
        try:
            async with asyncio.timeout(CONNECTION_SECONDS):
                await self._answer(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # a client that is slow, gone, or one too many: nobody waits for it
        finally:
            del self._open[task]
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            writer.write(response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        else:
            writer.write(self._response(head))
        await writer.drain()
        writer.write_eof()
        await reader.read(HEAD_BYTES)  # what is unread when it closes would make the kernel drop the answer

    def _response(self, head: bytes) -> bytes:
        method, path = parsed(head)
        if method is None:
            return response(HTTPStatus.BAD_REQUEST)
        if path not in {"/", "/metrics"}:
            return response(HTTPStatus.NOT_FOUND)
        if method != "GET":
            return response(HTTPStatus.METHOD_NOT_ALLOWED, more="Allow: GET\r\n")
        return response(HTTPStatus.OK, INDEX) if path == "/" else self._metrics()

    def _metrics(self) -> bytes:
        """As plain text: OpenMetrics has no histogram whose sum is unknown."""
        from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest  # noqa: PLC0415

        try:
            return response(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)
        except Exception as error:  # noqa: BLE001 - whatever it is, Prometheus is told, and asks again
            self.log.limited("status", f"the status could not be had: {error!r}")
            return response(HTTPStatus.INTERNAL_SERVER_ERROR)


def listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) <= PORT_MAX):
        raise ExpositionError(f'metrics: {address}: an address is written "127.0.0.1:9477"')
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host.removeprefix("[").removesuffix("]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(place[:2], family=family, backlog=CONNECTIONS_MAX)
    except OSError as error:
        raise ExpositionError(f"metrics: {address}: cannot listen there: {error.strerror or error}") from error


def parsed(head: bytes) -> tuple[str | None, str]:
    """Method, and path without its query; no method: it is no HTTP request. Headers are of no interest."""
    words = head.decode("latin-1").partition("\r\n")[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None, ""
    return words[0], words[1].partition("?")[0]


def response(status: HTTPStatus, body: bytes | None = None, content_type: str = PLAIN, more: str = "") -> bytes:
    body = f"{status.phrase}\n".encode() if body is None else body
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
