"""Where metrics can be had: over HTTP from a server that nobody can hold up, and in a file that is always whole."""

import http.client
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from made_status import cockpit
from prometheus_client.parser import text_string_to_metric_families

from virtflash.observation.exposition import ExpositionError
from virtflash.observation.metrics_endpoint import CONNECTION_SECONDS, CONNECTIONS_MAX, MetricsEndpoint
from virtflash.observation.metrics_file import MetricsFile
from virtflash.status import Status

DEADLINE_SECONDS = 20
SERIES = "virtflash_volume_read_bytes"


@pytest.fixture
def endpoint() -> Iterator[MetricsEndpoint]:
    made = MetricsEndpoint("127.0.0.1:0", cockpit)
    made.start()
    yield made
    made.stop()


def ask(
    endpoint: MetricsEndpoint, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=DEADLINE_SECONDS)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def raw(endpoint: MetricsEndpoint, sent: bytes) -> bytes:
    with connected(endpoint) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(65536):
            received += piece
        return received


def connected(endpoint: MetricsEndpoint) -> socket.socket:
    return socket.create_connection(("127.0.0.1", endpoint.port), timeout=DEADLINE_SECONDS)


def is_let_go(client: socket.socket) -> bool:
    """Has the server closed it? False: not within the client's time."""
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def families(text: str) -> set[str]:
    return {metric.name for metric in text_string_to_metric_families(text)}


@pytest.mark.parametrize("path", ["/metrics", "/metrics?name=x"])
def test_prometheus_gets_what_it_asks_for(endpoint: MetricsEndpoint, path: str) -> None:
    status, headers, body = ask(endpoint, path)
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert SERIES in families(body.decode())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/favicon.ico", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/metrics", 405),
        ("HEAD", "/", 405),
    ],
)
def test_there_is_nothing_else(endpoint: MetricsEndpoint, method: str, path: str, status: int) -> None:
    assert ask(endpoint, path, method)[0] == status


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET /metrics SPDY/3\r\n\r\n", b"400"),
        (b"\xff\x00\xfe\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100_000, b"431"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"200"),
    ],
)
def test_what_is_no_request_is_answered_all_the_same(endpoint: MetricsEndpoint, sent: bytes, status: bytes) -> None:
    assert raw(endpoint, sent).split(b" ")[1] == status
    assert ask(endpoint, "/metrics")[0] == 200


def test_clients_that_say_nothing_do_not_pile_up(endpoint: MetricsEndpoint) -> None:
    """Ten times as many as may be there: the oldest are let go, no thread is made, and Prometheus is answered."""
    threads = threading.active_count()
    idle = [connected(endpoint) for _ in range(10 * CONNECTIONS_MAX)]
    assert ask(endpoint, "/metrics")[0] == 200
    assert threading.active_count() == threads
    for client in idle[: -2 * CONNECTIONS_MAX]:
        assert is_let_go(client)
    for client in idle:
        client.close()


def test_a_client_that_dribbles_is_let_go(endpoint: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtflash.observation.metrics_endpoint.CONNECTION_SECONDS", 0.2)
    began = time.monotonic()
    with connected(endpoint) as client:
        client.settimeout(0.02)
        while not is_let_go(client) and time.monotonic() < began + DEADLINE_SECONDS:
            with suppress(OSError):
                client.sendall(b"G")
    assert time.monotonic() < began + CONNECTION_SECONDS


def test_a_status_that_cannot_be_had_is_told_and_asked_for_again() -> None:
    fails = True

    def status() -> Status:
        if fails:
            raise RuntimeError("a reactor is gone")
        return cockpit()

    endpoint = MetricsEndpoint("127.0.0.1:0", status)
    endpoint.start()
    assert ask(endpoint, "/metrics")[0] == 500
    fails = False
    assert ask(endpoint, "/metrics")[0] == 200
    endpoint.stop()


def test_it_ends_with_clients_still_there() -> None:
    endpoint = MetricsEndpoint("localhost:0", cockpit)
    threads = threading.active_count()
    endpoint.start()
    with connected(endpoint) as client:
        assert ask(endpoint, "/")[0] == 200
        endpoint.stop()
        assert is_let_go(client)
        with pytest.raises(ConnectionRefusedError):
            connected(endpoint)
    assert threading.active_count() == threads


def test_ipv6() -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    endpoint = MetricsEndpoint("[::1]:0", cockpit)
    endpoint.start()
    with socket.create_connection(("::1", endpoint.port), timeout=DEADLINE_SECONDS):
        endpoint.stop()


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("127.0.0.1:{taken}", "Address already in use"),
        ("192.0.2.1:9477", "Cannot assign"),
        ("no-such-host.invalid:9477", "cannot listen there"),
        ("127.0.0.1:99999", "127.0.0.1:9477"),
        ("127.0.0.1", "127.0.0.1:9477"),
        ("127.0.0.1:http:", "127.0.0.1:9477"),
    ],
)
def test_an_address_of_no_use_is_one_line(address: str, named: str, endpoint: MetricsEndpoint) -> None:
    with pytest.raises(ExpositionError, match=named) as raised:
        MetricsEndpoint(address.format(taken=endpoint.port), cockpit).start()
    assert "\n" not in str(raised.value)
    assert address.format(taken=endpoint.port) in str(raised.value)


def test_a_file_is_whole_from_the_start_and_gone_at_the_end(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    made = MetricsFile(tmp_path / "virtflash.prom", cockpit)
    made.start()
    os.umask(previous)
    assert SERIES in families(made.path.read_text())
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o644
    made.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_again_and_replaced_as_a_whole(tmp_path: Path) -> None:
    asked = threading.Semaphore(0)

    def status() -> Status:
        asked.release()
        return cockpit()

    made = MetricsFile(tmp_path / "virtflash.prom", status, seconds=0.01)
    made.start()
    seen = set()
    for _ in range(20):
        assert asked.acquire(timeout=DEADLINE_SECONDS)
        with made.path.open() as file:
            seen.add(os.fstat(file.fileno()).st_ino)
            assert SERIES in families(file.read())
    made.stop()
    assert len(seen) > 1


@pytest.mark.parametrize("place", ["no/virtflash.prom", "directory.prom"])
def test_a_file_that_cannot_be_written_is_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "directory.prom").mkdir()
    with pytest.raises(ExpositionError, match=place) as raised:
        MetricsFile(tmp_path / place, cockpit).start()
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["directory.prom"]
