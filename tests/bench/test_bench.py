"""`virtflash bench` as a user runs it."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from driven_servers import KINDS, Server, command, serve

PROGRAM = Path(sys.executable).with_name("virtflash")
SHORT = ["--seconds", "0.1", "--image-size", "16MiB"]


def bench(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    words = [str(PROGRAM), "bench", *SHORT, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def started(kind: str) -> str:
    return " ".join(command(kind, Path("{image}"), Path("{socket}")))


def test_a_running_server(server: Server) -> None:
    before = server.image.read_bytes()
    run = bench(server.socket, "--load", "r 4096 1", "--load", "read 64KiB 4 2")
    assert (run.returncode, run.stderr) == (0, "")
    heading, *rows = run.stdout.splitlines()
    assert " ".join(heading.split()) == "load requests/s MB/s p50 us p99 us p99.9 us CPU s/million"
    assert [row.split("  ")[0].strip() for row in rows] == ["read 4 KiB, depth 1", "read 64 KiB, depth 4, 2 queues"]
    assert server.image.read_bytes() == before


@pytest.mark.parametrize("options", [["--rw", "write"], ["--rw", "mixed"], ["--verify"], ["--load", "w 4096 1"]])
def test_data_is_destroyed_only_with_consent(server: Server, options: list[str]) -> None:
    before = server.image.read_bytes()
    for target in ([server.socket], [server.socket, "--vs", started("virtflash")]):
        run = bench(*target, *options)
        assert run.returncode == 2
        assert f"writing destroys what {server.socket} serves: add --write-allowed" in run.stderr
    assert server.image.read_bytes() == before
    run = bench(server.socket, *options, "--write-allowed")
    assert (run.returncode, run.stderr) == (0, "")
    assert server.image.read_bytes() != before


def test_its_own_server_by_default() -> None:
    run = bench("--rw", "mixed", "--verify", "--json")
    assert (run.returncode, run.stderr) == (0, "")
    ((load,),) = [json.loads(run.stdout)]
    assert load["load"] == {"direction": "mixed", "block_bytes": 4096, "depth": 32, "queues": 1}
    ((server,),) = [load["servers"]]
    assert (server["server"], len(server["runs"])) == ("virtflash", 1)
    (figures,) = server["runs"]
    assert figures["requests"] > 100
    assert (figures["failed"], figures["mismatched"]) == (0, 0)
    assert 0 < figures["latency_us"]["p50"] <= figures["latency_us"]["p99"] <= figures["latency_us"]["p100"]
    assert figures["cpu_seconds_per_million"] is not None


@pytest.mark.parametrize("other", KINDS)
def test_two_servers_in_turn(other: str, tmp_path: Path) -> None:
    run = bench("--vs", started(other), "--rounds", "2", "--directory", tmp_path, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    (load,) = json.loads(run.stdout)
    ours, theirs = load["servers"]
    assert len(ours["runs"]) == len(theirs["runs"]) == 2
    ratios = [a["iops"] / b["iops"] for a, b in zip(ours["runs"], theirs["runs"], strict=True)]
    assert load["ratio"] == pytest.approx(sum(ratios) / 2, rel=1e-3)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_the_table_of_two_servers(tmp_path: Path) -> None:
    with serve("virtflash", tmp_path) as running:
        run = bench(running.socket, "--vs", started("virtflash"), "--rounds", "1")
    title, heading, row = run.stdout.splitlines()
    assert title.strip() == f"{running.socket} / virtflash"
    assert "ratio" in heading
    assert row.count(" / ") == 3


WRONG = {
    "no server": (["{directory}/none"], 1, "none: cannot connect: No such file or directory"),
    "two servers": (["{directory}/none", "--server", "x {socket}"], 2, "either SOCKET or --server"),
    "no socket in the command": (["--server", "x"], 1, "names its socket as {socket}"),
    "a quote left open": (["--server", "x 'y {socket}"], 1, "No closing quotation"),
    "no such program": (["--server", "nosuchprogram {socket}"], 1, "nosuchprogram: cannot be started"),
    "ends at once": (["--server", "ls --nonsense {socket}"], 1, "ls ended with status 2: Try 'ls --help'"),
    "the second ends at once": (["--vs", "false {socket}"], 1, "false ended with status 1"),
    "no load": (["--load", "r 4096"], 2, "'r 4096' is no load"),
    "no direction": (["--load", "x 4096 1"], 2, "'x 4096 1' is no load"),
    "no size": (["--load", "r 4Q 1"], 2, "'4Q' is no size"),
    "no depth": (["--load", "r 4096 0"], 2, "at least 1"),
    "odd block": (["--block-size", "1000"], 1, "not a multiple of 512"),
    "no time": (["--seconds", "nan"], 2, "nan is no number"),
    "too long": (["--seconds", "inf"], 2, "inf is not in the range"),
    "deep": (["--depth", "400", "--chains", "direct"], 1, "needs a ring of 1200 entries"),
    "too large": (["--image-size", "1000TiB"], 1, "are free"),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_line_says_what_is_wrong(case: str, tmp_path: Path) -> None:
    arguments, status, words = WRONG[case]
    run = bench(*(word.replace("{directory}", str(tmp_path)) for word in arguments))
    assert run.returncode == status
    assert words in run.stderr
    assert run.stderr.startswith("virtflash bench: ")
    assert len(run.stderr.splitlines()) == 1
    assert run.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_takes_its_server_along(tmp_path: Path, number: signal.Signals) -> None:
    words = [str(PROGRAM), "bench", "--seconds", "600", "--image-size", "16MiB", "--directory", str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until_loaded(process)
    assert len(servers_in(tmp_path)) == 2  # bench names the directory, and so does the server
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, "")
    assert list(tmp_path.iterdir()) == []
    assert not servers_in(tmp_path)


def servers_in(directory: Path) -> list[str]:
    """Processes that were started with a path in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            if str(directory).encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def wait_until_loaded(process: "subprocess.Popen[str]") -> None:
    """Until the server that was started has a thread of the load beside it: more threads than the one of Python."""
    while len(os.listdir(f"/proc/{process.pid}/task")) < 2:  # noqa: PTH208
        assert process.poll() is None
