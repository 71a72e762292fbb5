"""`virtflash top` in a terminal: what it shows is what the server counts, and the terminal is afterwards as before."""

import json
import signal
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from made_status import cockpit, histogram
from status_server import StatusServer
from terminal_screen import Screen, row, run_top

from virtflash.observation.rates import percentile, rates_between
from virtflash.observation.top_screen import seconds, size
from virtflash.status import Status


def busy(number: int) -> Status:
    """Each question finds a second passed, 500 reads of 100 us more, 2 MB programmed for 1 MB written."""
    made = cockpit()
    cluster = msgspec.structs.replace(
        made.volumes[0],
        requests=made.volumes[0].requests | {"read": 500 * number},
        bytes_read=2_000_000 * number,
        bytes_written=1_000_000 * number,
        programmed=2_000_000 * number,
        latency=made.volumes[0].latency | {"read": histogram(us100=500 * number)},
    )
    return msgspec.structs.replace(made, uptime=100.0 + number, volumes=[cluster, *made.volumes[1:]])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StatusServer]:
    made = StatusServer(tmp_path / "control", busy)
    yield made
    made.end()


@pytest.fixture
def top(server: StatusServer) -> Iterator[Callable[..., Screen]]:
    started: list[Screen] = []

    def start(columns: int = 80, lines: int = 24, **environment: str) -> Screen:
        started.append(Screen(server.path, columns, lines, environment))
        return started[-1]

    yield start
    for screen in started:
        screen.close()


SECOND_FRAME = (" 500 ", "wear 2 MB/s, WA 2.00", "budget 50 % left", "budget -0 % left SPENT", "3 errors", "100/512")


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (132, 40)])
def test_the_screen_is_what_the_server_counts(top: Callable[..., Screen], columns: int, lines: int) -> None:
    # A frame may come in pieces, from the top: all of it is there when all of these are.
    shown = top(columns, lines).until(lambda text: all(part in text for part in SECOND_FRAME))
    assert row(shown, "cluster").split()[:10] == [
        "cluster",
        "serving",
        "500",
        "2",
        "MB",
        "1",
        "MB",
        "115us",
        "115us",
        "-",
    ]
    assert row(shown, "cluster").split()[-1] == "7"
    assert row(shown, "infotainment").split()[1] == "read-only"
    assert "wear 2 MB/s, WA 2.00, 3 errors, process 811 of user 990" in shown
    assert "budget 50 % left" in shown
    assert "budget -0 % left SPENT" in shown
    assert "3 errors" in shown
    assert row(shown, "emmc0").split()[:5] == ["emmc0", "emmc", "10/20", "normal", "45.5"]
    assert "100/512" in row(shown, "emmc0")
    assert "process 4242" in shown
    assert "cockpit.toml" in shown
    assert "…" not in shown


def test_a_resize_draws_anew(top: Callable[..., Screen]) -> None:
    screen = top()
    screen.until(lambda text: "process 811" in text)
    screen.resize(80, 12)
    screen.process.send_signal(signal.SIGWINCH)
    shown = screen.until(lambda text: "process 811" not in text and row(text, "boot") != "" and row(text, "nor0") != "")
    assert row(shown, "boot")


@pytest.mark.parametrize("how", ["q", "\x1b", "interrupt", "terminate"])
def test_the_terminal_is_as_before(how: str, top: Callable[..., Screen]) -> None:
    screen = top()
    screen.until(lambda text: "cluster" in text)
    assert not termios.tcgetattr(screen.slave)[3] & termios.ICANON
    signals = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
    if how in signals:
        screen.process.send_signal(signals[how])
    else:
        screen.press(how)
    assert screen.ended() == (143 if how == "terminate" else 0, "")
    assert screen.raw.rstrip().endswith(b"\x1b[?1049l")


def test_the_other_keys(top: Callable[..., Screen]) -> None:
    screen = top()
    screen.until(lambda text: "sorted by configuration" in text)
    screen.press("s")
    screen.until(lambda text: "sorted by IOPS" in text)
    screen.press("h")
    screen.until(lambda text: "sort by another column" in text)
    screen.press("\x1b[A")
    screen.press("h")
    screen.press("p")
    screen.until(lambda text: "paused" in text)
    screen.press("p")
    screen.until(lambda text: "paused" not in text)
    screen.press("q")
    assert screen.ended()[0] == 0


def test_a_server_that_ends_is_one_line(top: Callable[..., Screen], server: StatusServer) -> None:
    screen = top()
    screen.until(lambda text: "cluster" in text)
    server.end()
    status, said = screen.ended()
    assert status == 1
    assert said.count("\n") == 1
    assert "the server has ended" in said


def test_without_colours(top: Callable[..., Screen]) -> None:
    screen = top(NO_COLOR="1")
    screen.until(lambda text: "cluster" in text)
    assert b"\x1b[32m" not in screen.raw


def test_a_dumb_terminal(top: Callable[..., Screen]) -> None:
    screen = top(TERM="dumb")
    screen.until(lambda text: "cluster" in text)
    assert b"\x1b" not in screen.raw
    screen.press("q")
    assert screen.ended()[0] == 0


def test_once(server: StatusServer) -> None:
    ended = run_top(server.path, "--once", "--interval", "0.1")
    assert ended.returncode == 0
    assert row(ended.stdout, "cluster").split()[2] == "500"
    assert max(map(len, ended.stdout.splitlines())) <= 80


def test_once_as_json(server: StatusServer) -> None:
    told = json.loads(run_top(server.path, "--once", "--json", "--interval", "0.1").stdout)
    assert msgspec.convert(told["status"], Status) == busy(1)
    assert told["rates"]["volumes"]["cluster"]["iops"] == 500
    assert told["rates"]["volumes"]["cluster"]["latency"]["read"]["requests"] == 500


def test_what_is_in_the_way_is_one_line(tmp_path: Path, server: StatusServer) -> None:
    for arguments, named in (([tmp_path / "no", "--once"], "no server answers"), ([server.path], "--once")):
        ended = run_top(*arguments)
        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1
        assert named in ended.stderr


def test_a_server_that_began_anew_is_measured_from_its_beginning() -> None:
    fresh = msgspec.structs.replace(busy(1), started=busy(0).started + 500, uptime=2.0)
    assert rates_between(busy(9), fresh).seconds == 2.0
    assert rates_between(busy(9), fresh).volumes["cluster"].bytes_read == 1_000_000


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [([0, 0, 0, 0], 0.5, None), ([1, 1, 0, 0], 0.5, 1e-6), ([0, 99, 1, 0], 0.99, 2e-6), ([0, 0, 0, 5], 0.5, 3e-6)],
)
def test_percentiles(counts: list[int], share: float, seconds: float | None) -> None:
    assert percentile(counts, [1000, 2000, 3000, 4000], share) == seconds


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "-"), (4e-7, "400ns"), (0.000115, "115us"), (0.0009996, "1000us"), (0.0123, "12.3ms"), (1.5, "1.5s")],
)
def test_latencies_fit_in_six_columns(value: float | None, written: str) -> None:
    assert seconds(value) == written


@pytest.mark.parametrize("count", [0, 999, 999_700, 1_234_567, 999_999_999])
def test_sizes_fit_in_eight_columns(count: int) -> None:
    assert "e+" not in size(count)
    assert len(size(count)) <= 8
