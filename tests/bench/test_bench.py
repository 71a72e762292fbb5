"""`virtflash bench` as a user runs it."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from driven_servers import KINDS, Server, command, serve
from processes import started_with

from virtflash.cli.bench import own_command
from virtflash.driver.deadline import Deadline
from virtflash.driver.front_end import FrontEnd

PROGRAM = Path(sys.executable).with_name("virtflash")
SMALL = ("--image-size", "16MiB")


def words_of(*arguments: str | Path) -> list[str]:
    return [str(PROGRAM), "bench", "--seconds", "0.1", *map(str, arguments)]


def bench(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words_of(*arguments), capture_output=True, text=True, timeout=60, check=False)


def started(kind: str) -> str:
    return " ".join(command(kind, Path("{image}"), Path("{socket}")))


def test_a_running_server(server: Server) -> None:
    before = server.image.read_bytes()
    run = bench(server.socket, "--load", "r 4096 1", "--load", "read 64KiB 4 2")
    assert (run.returncode, run.stderr) == (0, "")
    above, below, *rows = run.stdout.splitlines()
    assert above.split() == ["depth", "requests", "p50", "p99", "p99.9", "CPU", "us"]
    assert below.split() == ["load", "x", "queues", "/s", "MB/s", "us", "us", "us", "each"]
    loads = [[cell.strip() for cell in row.split("  ") if cell][:2] for row in rows]
    assert loads == [["read 4 KiB", "1"], ["read 64 KiB", "4 x 2"]]
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
    run = bench(*SMALL, "--rw", "mixed", "--verify", "--json")
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
    run = bench(*SMALL, "--vs", started(other), "--rounds", "2", "--directory", tmp_path, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    (load,) = json.loads(run.stdout)
    ours, theirs = load["servers"]
    assert len(ours["runs"]) == len(theirs["runs"]) == 2
    ratios = [a["iops"] / b["iops"] for a, b in zip(ours["runs"], theirs["runs"], strict=True)]
    assert load["ratio"] == pytest.approx(sum(ratios) / 2, rel=1e-3)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_the_table_of_two_servers(tmp_path: Path) -> None:
    with serve("virtflash", tmp_path) as running:
        run = bench(running.socket, *SMALL, "--vs", started("virtflash"), "--rounds", "1")
    _, heading, load, first, second = run.stdout.splitlines()
    assert heading.split() == ["/s", "ratio", "us", "us", "us", "each"]
    assert load == "read 4 KiB, depth 32"
    assert first.split()[0] == f"...{str(running.socket)[-21:]}"
    assert second.split()[0] == "virtflash"
    assert len(first.split()) == len(second.split()) + 1, "the ratio stands once"


WRONG = {
    "no server": (["{directory}/none"], 1, "none: cannot connect: No such file or directory"),
    "two servers": (["{directory}/none", "--server", "x {socket}"], 2, "either SOCKET or --server"),
    "no socket in the command": (["--server", "x"], 1, "names its socket as {socket}"),
    "a quote left open": (["--server", "x 'y {socket}"], 1, "No closing quotation"),
    "no such program": (["--server", "nosuchprogram {socket}"], 1, "nosuchprogram: cannot be started"),
    "ends at once": (["--server", "ls --nonsense {socket}"], 1, "ls ended with status 2: Try 'ls --help'"),
    "the second ends at once": ([*SMALL, "--vs", "false {socket}"], 1, "false ended with status 1"),
    "no load": (["--load", "r 4096"], 2, "'r 4096' is no load"),
    "no direction": (["--load", "x 4096 1"], 2, "'x 4096 1' is no load"),
    "no size": (["--load", "r 4Q 1"], 2, "'4Q' is no size"),
    "no depth": (["--load", "r 4096 0"], 2, "depth is from 1 to 1024"),
    "too deep": (["--load", "r 4096 1025"], 2, "depth is from 1 to 1024"),
    "many queues": (["--load", "read 4KiB 32 99"], 2, "queues are from 1 to 64"),
    "an odd image": (["--image-size", "10"], 2, "--image-size: 10 is no multiple of 512 bytes"),
    "no image": (["--image-size", "0"], 2, "--image-size: 0 is no multiple of 512 bytes"),
    "depth twice": (["--load", "r 4096 1", "--depth", "3"], 2, "--depth has no effect beside --load"),
    "loads twice": (["--load", "r 4096 1", "--standard"], 2, "--standard has no effect beside --load"),
    "direction twice": (["--standard", "--rw", "write"], 2, "--rw has no effect beside --standard"),
    "spins for ever": (["--poll", "--spin", "3"], 2, "--spin has no effect beside --poll"),
    "no image is made": (["{directory}/none", *SMALL], 2, "--image-size has no effect: no server is started"),
    "nothing is made": (["{directory}/none", "--directory", "{directory}"], 2, "--directory has no effect: no server"),
    "no image is named": ([*SMALL, "--server", "x {socket}"], 2, "--image-size has no effect: no command has {image}"),
    "odd block": ([*SMALL, "--block-size", "1000"], 1, "not a multiple of 512"),
    "no time": (["--seconds", "nan"], 2, "nan is no number"),
    "too long": (["--seconds", "inf"], 2, "inf is not in the range"),
    "deep": ([*SMALL, "--depth", "400", "--chains", "direct"], 1, "needs a ring of 1200 entries"),
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


def test_the_status_of_its_own_server(tmp_path: Path) -> None:
    command = own_command().format(image=tmp_path / "none", socket=tmp_path / "socket", queues=1)
    assert subprocess.run(shlex.split(command), capture_output=True, timeout=30, check=False).returncode == 1


def test_what_failed_is_no_figure() -> None:
    """Beyond the limit of the shell every write fails: the first half of the image is below it."""
    limited = f"sh -c 'ulimit -f {(8 << 20) // 512}; exec {started('virtflash')}'"
    run = bench(*SMALL, "--server", limited, "--rw", "write", "--json")
    (figures,) = json.loads(run.stdout)[0]["servers"][0]["runs"]
    assert run.returncode == 1
    assert figures["failed"] > 0.3 * figures["requests"] > 0, "about as many"
    wrong = f"{figures['failed']:,} requests failed or gave the wrong data"
    assert run.stderr == f"virtflash bench: sh: write 4 KiB, depth 32: {wrong}\n"


def test_who_waits_says_so(tmp_path: Path) -> None:
    with serve("virtflash", tmp_path) as running:
        with FrontEnd(running.socket) as other:
            other.get_features()
            words = words_of(running.socket)
            waiting = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert waiting.stderr is not None
            said = waiting.stderr.readline()
        _, errors = waiting.communicate(timeout=30)
    assert said.startswith(f"virtflash bench: {running.socket}: no answer; another front end may be served there")
    assert (waiting.returncode, errors) == (0, "")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_full_disk_for_the_figures(form: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(
            words_of(*SMALL, *form), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert run.returncode == 1
    assert run.stderr == "virtflash bench: cannot write to the standard output: No space left on device\n"


def test_help_fits_a_terminal() -> None:
    assert max(map(len, bench("--help").stdout.splitlines())) <= 80


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_takes_its_server_along(tmp_path: Path, number: signal.Signals) -> None:
    process = long_run(tmp_path)
    process.send_signal(number)
    process.send_signal(signal.SIGHUP)  # what comes while it cleans up does not disturb it
    _, errors = process.communicate(timeout=30)
    assert process.returncode in {128 + number, 128 + signal.SIGHUP}  # of two at once the kernel chooses
    assert errors == ""
    assert list(tmp_path.iterdir()) == []
    assert not started_with(tmp_path)


def test_a_closed_terminal_that_is_ignored(tmp_path: Path) -> None:
    process = long_run(tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)  # a number above SIGHUP: the kernel would deliver that one first
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


def test_killed_it_takes_its_server_along(tmp_path: Path) -> None:
    process = long_run(tmp_path)
    process.kill()
    process.communicate(timeout=30)
    deadline = Deadline(10)
    while started_with(tmp_path):
        assert deadline.left


def long_run(directory: Path, *before: str) -> "subprocess.Popen[str]":
    """A measurement of many minutes, begun."""
    words = [*before, *words_of(*SMALL, "--seconds", "600", "--directory", directory)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until_loaded(process)
    assert len(started_with(directory)) == 2  # bench names the directory, and so does the server
    return process


def wait_until_loaded(process: "subprocess.Popen[str]") -> None:
    """Until the server that was started has a thread of the load beside it: more threads than the one of Python."""
    while len(os.listdir(f"/proc/{process.pid}/task")) < 2:  # noqa: PTH208
        assert process.poll() is None
