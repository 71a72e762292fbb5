"""`virtflash ctl` beside a running server: each method through the real program, and what becomes of the server."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from configured import CAPACITY, MIB, Configured
from ctl_program import Watching, ctl
from watched_server import wait_until

from virtflash.driver.blk import BlkDriver
from virtflash.vhost_user.messages import BackendRequest
from virtflash.virtio.blk import RequestType, Status

SECTOR = 512
PAGE = 4096
MONTH_SECONDS = 30 * 86400
TWO = {"cluster": "16 MiB", "infotainment": "32 MiB"}
OLD = b"two months old".ljust(PAGE, b".")
OLD_BYTES = 8 * MIB  # of it, at the beginning of infotainment: more than one erase block


class Operated:
    """A server in a child, its operator's program, and guests."""

    def __init__(self, configured: Configured, process: subprocess.Popen[str]) -> None:
        self.configured, self.process = configured, process
        self.control = configured.socket("control")

    def ctl(self, *words: str) -> str:
        """What it prints where all goes well."""
        ended = ctl(self.control, *words)
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    def told(self, *words: str) -> Any:
        """The same as data."""
        return json.loads(self.ctl(*words, "--json"))

    def refused(self, *words: str) -> str:
        """The line that says why."""
        ended = ctl(self.control, *words)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert len(ended.stderr.splitlines()) == 1
        return ended.stderr

    def guest(self, name: str) -> BlkDriver:
        return BlkDriver(self.configured.socket(name))

    def volume(self, name: str) -> dict[str, Any]:
        return next(volume for volume in self.told("volumes") if volume["name"] == name)

    def log(self) -> str:
        return (self.configured.directory / "log").read_text()


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    """Its flash has been on a shelf for two months, with data in one volume."""
    made = Configured(tmp_path, TWO)
    with made.served() as service:
        with BlkDriver(made.socket("infotainment")) as driver:
            for first in range(0, OLD_BYTES // SECTOR, MIB // SECTOR):
                driver.write(first, OLD * (MIB // PAGE)).check()
            driver.flush().check()
        service.server.flashes["emmc0"].storage.target.age(2 * MONTH_SECONDS)
    return made


@pytest.fixture
def server(configured: Configured) -> Iterator[Operated]:
    with configured.in_a_child() as child:
        operated = Operated(configured, child)
        yield operated
    assert "Traceback" not in operated.log()


def at_once(driver: BlkDriver, count: int) -> float:
    """So many reads, all of them there before the device hears of any; how long they took together, in seconds."""
    began = time.monotonic()
    for number in range(count):
        driver.submit(RequestType.IN, room=PAGE, kick=number == count - 1)
    assert [completion.status for completion in driver.complete_all()] == [Status.OK] * count
    return time.monotonic() - began


# What each method does


def status(server: Operated) -> None:
    with server.guest("cluster") as driver:
        for sector in range(3):
            driver.write(sector, bytes(SECTOR)).check()
        for sector in range(5):
            driver.read(sector, SECTOR).check()
        told = server.told("status")
    assert (told["process"], told["configuration"]) == (server.process.pid, str(server.configured.path))
    assert [(volume["name"], volume["requests"]["write"]) for volume in told["volumes"]] == [
        ("cluster", 3),
        ("infotainment", 0),
    ]
    assert told["volumes"][0]["requests"]["read"] == 5
    assert told["flashes"][0]["size"] == CAPACITY
    text = server.ctl("status")
    assert f"process {server.process.pid}," in text and "\nemmc0 " in text


def volumes(server: Operated) -> None:
    with server.guest("infotainment") as driver:
        driver.read(0, MIB).check()
        told = server.told("volumes")
        rows = [line.split() for line in server.ctl("volumes").splitlines()]
    assert [volume["front_end"] and volume["front_end"]["process"] for volume in told] == [None, os.getpid()]
    assert told[1]["bytes_read"] == MIB
    assert [row[:3] for row in rows[1:]] == [[name, "emmc0", "serving"] for name in TWO]
    assert rows[2][3:5] == ["process", str(os.getpid())]


def create(server: Operated) -> None:
    text = server.ctl(
        "create", "name=new", "flash=emmc0", "size=4 MiB", "socket=run/new.sock", "mode=640", "serial=4711"
    )
    assert "new" in text and "4 MiB" in text
    path = server.configured.directory / "run" / "new.sock"
    assert path.stat().st_mode & 0o777 == 0o640
    with BlkDriver(path) as driver:
        assert driver.capacity == 4 * MIB // SECTOR
        assert driver.get_id().check().data.rstrip(b"\0") == b"4711"
        assert driver.read(0, 4 * MIB - PAGE).check().data == bytes(4 * MIB - PAGE)
        driver.write(driver.capacity - 8, OLD).check()
        assert driver.read(driver.capacity - 8, PAGE).check().data == OLD
    again = server.refused("create", "name=new", "flash=emmc0", "size=4 MiB", "socket=other.sock")
    assert again == "virtflash ctl: volume new is served already\n"
    server.ctl("create", "name=boot", "flash=emmc0", "size=1 MiB", "socket=boot.sock", "read_only=true")
    with server.guest("boot") as driver:
        assert driver.write(0, OLD).status == Status.IOERR


def delete(server: Operated) -> None:
    free = server.told("status")["flashes"][0]["free"]
    with server.guest("infotainment") as guest, server.guest("cluster") as other:
        other.write(0, OLD).check()
        assert server.ctl("delete", "name=infotainment", "secure=true") == "done\n"
        guest.front_end.wait_closed()
        assert other.read(0, PAGE).check().data == OLD
        other.secure_erase(0, other.capacity).check()
    assert not server.configured.socket("infotainment").exists()
    assert [volume["name"] for volume in server.told("volumes")] == ["cluster"]
    assert server.told("status")["flashes"][0]["free"] == free + 32 * MIB
    assert OLD not in (server.configured.directory / "emmc0.vflash").read_bytes()


def grow(server: Operated) -> None:
    with server.guest("infotainment") as driver:
        assert "40 MiB" in server.ctl("grow", "name=infotainment", "size=40 MiB")
        assert driver.backend_requests is not None
        assert driver.backend_requests.receive().request == BackendRequest.CONFIG_CHANGE_MSG
        assert driver.read_config().capacity == 40 * MIB // SECTOR
        driver.write(driver.capacity - 8, OLD).check()
        assert driver.read(driver.capacity - 8, PAGE).check().data == OLD
        assert driver.read(0, PAGE).check().data == OLD
    assert "never has fewer" in server.refused("grow", "name=infotainment", "size=39 MiB")


def flush(server: Operated) -> None:
    """What is in the cache of the part is programmed; see also what outlives `kill -9` below."""
    with server.guest("cluster") as driver:
        for words in (["name=cluster"], []):
            driver.write(0, os.urandom(PAGE)).check()
            before = server.told("wear", "name=cluster")[0]["programmed"]
            assert server.ctl("flush", *words) == "done\n"
            assert server.told("wear", "name=cluster")[0]["programmed"] >= before + PAGE


def erase(server: Operated) -> None:
    with server.guest("infotainment") as driver, server.guest("cluster") as other:
        other.write(0, b"mine".ljust(PAGE, b"-")).check()
        assert driver.read(0, PAGE).check().data == OLD
        assert server.ctl("erase", "name=infotainment") == "done\n"
        assert driver.read(0, MIB).check().data == bytes(MIB)
        driver.write(0, OLD).check()
        assert driver.read(0, PAGE).check().data == OLD
        server.ctl("erase", "name=infotainment", "secure=true")
        assert driver.read(0, MIB).check().data == bytes(MIB)
        assert other.read(0, PAGE).check().data == b"mine".ljust(PAGE, b"-")
    assert OLD not in (server.configured.directory / "emmc0.vflash").read_bytes()


def refresh(server: Operated) -> None:
    """What has been there for two months is older than one, and not as old as three."""

    def is_done() -> bool:
        return server.told("refresh", "older_than=30 days") == {"emmc0": 0}

    programmed = server.told("status")["flashes"][0]["programmed_bytes"]
    with server.guest("infotainment") as driver:
        assert server.told("refresh", "older_than=90 days") == server.told("refresh") == {"emmc0": 0}
        assert re.fullmatch(r"emmc0  [1-9]\d*\n", server.ctl("refresh", "flash=emmc0", "older_than=30 days"))
        wait_until(is_done, "all of them were written anew", 20)
        assert server.told("status")["flashes"][0]["programmed_bytes"] >= programmed + MIB
        for first in range(0, OLD_BYTES // SECTOR, MIB // SECTOR):
            assert driver.read(first, MIB).check().data == OLD * (MIB // PAGE)


def reload(server: Operated) -> None:
    configured = server.configured
    server.ctl("limits", "name=cluster", "bandwidth=30 MB/s")
    with server.guest("cluster") as driver:
        configured.write({**TWO, "cluster": '20 MiB\niops = "5000 /s"\nqueues = 2', "telematics": "4 MiB"})
        text = server.ctl("reload")
        for words in ("iops: nothing -> 5000", f"size: {16 * MIB} -> {20 * MIB}", "[volume.telematics]: served"):
            assert words in text.splitlines()[0]
        assert "[volume.cluster] queues: 1 -> 2: takes effect when the server starts again" in text.splitlines()[1]
        assert driver.read_config().capacity == 20 * MIB // SECTOR
    with server.guest("telematics") as driver:
        assert driver.read(0, PAGE).check().data == bytes(PAGE)
    limits = server.volume("cluster")["limits"]
    assert (limits["iops"], limits["bandwidth"]) == (5000, 30_000_000)  # what the file says nothing new of stays
    configured.write({**TWO, "cluster": '24 MiB\niops = "5000 per second"'})
    assert re.search(r"virtflash\.toml:\d+: \[volume\.cluster\] iops: ", server.refused("reload"))
    assert [volume["size"] for volume in server.told("volumes")] == [20 * MIB, 32 * MIB, 4 * MIB]


def limits(server: Operated) -> None:
    with server.guest("cluster") as driver:
        text = server.ctl("limits", "name=cluster", "iops=50 /s", "iops_burst=1")
        assert re.search(r"^iops +50$", text, re.MULTILINE)
        assert at_once(driver, 6) >= 5 / 50
        delayed = server.volume("cluster")["delayed"]
        assert delayed >= 5
        assert server.told("limits", "name=cluster")["iops"] == 50  # asking changes nothing
        assert server.told("limits", "name=cluster", "iops=null", "bandwidth=2 MB/s")["iops"] is None
        at_once(driver, 6)
        assert server.volume("cluster")["delayed"] == delayed
        server.ctl("limits", "name=cluster", f"bandwidth_burst={PAGE}")
        assert at_once(driver, 26) >= 25 * PAGE / 2_000_000
        assert server.volume("cluster")["limits"]["bandwidth"] == 2_000_000
        assert server.volume("infotainment")["limits"]["bandwidth"] is None
    assert "nothing at all would pass" in server.refused("limits", "name=cluster", "iops=0 /s")


def wear(server: Operated) -> None:
    with server.guest("cluster") as driver:
        driver.write(0, os.urandom(MIB)).check()
        driver.flush().check()
        told = {volume["name"]: volume for volume in server.told("wear")}
        assert told["cluster"]["bytes_written"] == MIB
        assert MIB <= told["cluster"]["programmed"] < 2 * MIB
        assert told["infotainment"]["bytes_written"] == told["infotainment"]["programmed"] == 0
        server.ctl("limits", "name=cluster", "wear_budget=100 MB/day", "wear_burst=4 MiB", "when_spent=read-only")
        assert re.search(r"^cluster .* 100 MB a day .* read-only$", server.ctl("wear"), re.MULTILINE)
        answers = {driver.write(number * 512, os.urandom(MIB // 4)).status for number in range(40)}
        assert answers == {Status.OK, Status.IOERR}
        assert "read-only: now" in server.ctl("wear", "name=cluster")
        assert "infotainment" not in server.ctl("wear", "name=cluster")
        assert driver.read(0, PAGE).status == Status.OK


def log_level(server: Operated) -> None:
    def come_and_go() -> str:
        """What is logged of it, of the coming at least."""
        before = len(server.log())
        with server.guest("cluster"):
            pass
        return server.log()[before:]

    def left() -> bool:
        return "debug   cluster: front end let go" in server.log()

    assert server.ctl("log_level") == "info\n"
    assert "features" not in come_and_go()
    assert server.ctl("log_level", "level=debug") == "debug\n"
    assert re.search(r"debug   cluster: features 0x\w+ negotiated", come_and_go())
    wait_until(left, server.log)
    server.ctl("log_level", "level=error")
    assert server.told("status")["log_level"] == "error"
    assert come_and_go() == ""
    assert server.ctl("log_level", "level=info") == "info\n"
    assert "info    cluster: front end connected" in come_and_go()


def shutdown(server: Operated) -> None:
    assert server.ctl("shutdown") == "done\n"
    assert server.process.wait(20) == 0
    assert list(server.configured.directory.glob("*.sock")) == []


def watch(server: Operated) -> None:
    """As lines and as JSON; each volume's events only, and what happens while somebody watches."""
    with (
        Watching(server.control, "volume=infotainment", "since=0") as lines,
        Watching(server.control, "volume=cluster", "since=0", "events=front-end-connected,left", "--json") as objects,
    ):
        for number in range(2):  # by the second time both watch
            with server.guest("infotainment"), server.guest("cluster"):
                came = json.loads(objects.line())
                assert (came["kind"], came["volume"], came["level"]) == ("front-end-connected", "cluster", "info")
                assert came["data"] == {"process": os.getpid(), "user": os.getuid()}
                shown = [lines.line() for _ in range(2)]
            gone = json.loads(objects.line())
            assert (gone["kind"], gone["volume"]) == ("left", "cluster") and gone["number"] > came["number"]
            said = [f"front end connected (process {os.getpid()}, user {os.getuid()})", "ring 0 started: 128 entries"]
            shown.append(lines.line())
            for line, words in zip(shown, [*said, "front end left after"], strict=True):
                assert re.match(r"\d\d:\d\d:\d\d\.\d{3} info    infotainment: " + re.escape(words), line), number
        assert lines.interrupted() == objects.interrupted() == (0, "")


def sensors(server: Operated) -> None:
    wait_until(lambda: bool(server.told("sensors")), "the first readings")
    said = {each["name"]: each for each in server.told("sensors")}
    assert said["emmc0.temperature"]["value"] == pytest.approx(55, abs=60)
    assert said["emmc0.temperature"]["problem"] is None
    assert re.search(r"emmc0\.temperature", server.ctl("sensors"))


def push(server: Operated) -> None:
    """What rules wait for is taken, with its time to live."""
    more = '[[health.rule]]\nsensor = "platform.supply"\nbelow = 2.9\nstate = "read-only"\n'
    assert "nobody waits for it" in server.refused("push", "sensor=platform.supply", "value=3")
    server.configured.write(TWO, more)
    assert "[health]: its rules" in server.told("reload")["applied"]
    for value, state in (("2.8", "read-only"), ("3.3", "serving")):
        server.ctl("push", "sensor=platform.supply", f"value={value}", "ttl=1 h")
        wait_until(lambda state=state: server.volume("cluster")["state"] == state, state)  # type: ignore[misc]


def simulate(server: Operated) -> None:
    assert server.told("simulate", "sensor=emmc0.temperature", "value=120") is None
    for name in TWO:
        wait_until(lambda name=name: server.volume(name)["state"] == "read-only", "it is too hot", 20)  # type: ignore[misc]
    server.ctl("simulate", "sensor=emmc0.temperature", "value=25")
    for name in TWO:
        wait_until(lambda name=name: server.volume(name)["state"] == "serving", "it has cooled down", 20)  # type: ignore[misc]
    assert "nothing emulated measures it" in server.refused("simulate", "sensor=platform.supply", "value=1")
    assert "nothing that it could measure" in server.refused("simulate", "sensor=emmc0.temperature", "value=-300")


def methods(server: Operated) -> None:
    """None is left out here."""
    told = server.told("methods")
    assert {method["name"] for method in told} == set(EFFECTS)
    text, manual = server.ctl("methods"), server.ctl("--help")
    for method in told:
        assert re.search(rf"^{method['name']} +{re.escape(method['summary'])}$", text, re.MULTILINE)
        assert re.search(rf"^{method['name']}\b", manual, re.MULTILINE)


EFFECTS: dict[str, Callable[[Operated], None]] = {
    effect.__name__: effect
    for effect in (
        *(status, volumes, create, delete, grow, flush, erase, refresh),
        *(sensors, push, simulate, reload, limits, wear, log_level, shutdown, watch, methods),
    )
}


@pytest.mark.parametrize("method", EFFECTS)
def test_each_method_does_what_it_says(server: Operated, method: str) -> None:
    EFFECTS[method](server)


def test_what_was_flushed_outlives_kill_9(configured: Configured) -> None:
    with configured.in_a_child(signal.SIGKILL) as child, BlkDriver(configured.socket("cluster")) as driver:
        driver.write(0, OLD).check()
        Operated(configured, child).ctl("flush", "name=cluster")
    with configured.in_a_child(), BlkDriver(configured.socket("cluster")) as driver:
        assert driver.read(0, PAGE).check().data == OLD


def test_what_nobody_serves_is_not_shown_by_create_and_can_be_deleted(configured: Configured) -> None:
    """A volume that an operator made is on the flash when the server starts again, and in no file."""
    new = ("create", "name=new", "flash=emmc0", "size=4 MiB", "socket=new.sock")
    with configured.in_a_child() as child:
        server = Operated(configured, child)
        server.ctl(*new)
        with server.guest("new") as driver:
            driver.write(0, OLD).check()
            driver.flush().check()
    with configured.in_a_child() as child:
        server = Operated(configured, child)
        assert "is on the flash, with what it holds, and not served" in server.refused(*new)
        server.ctl("delete", "name=new")
        server.ctl(*new)
        with server.guest("new") as driver:
            assert driver.read(0, PAGE).check().data == bytes(PAGE)


# What is in the way

UNKNOWN = [
    *("delete name=tv", "grow name=tv size=1GiB", "flush name=tv", "erase name=tv", "limits name=tv", "wear name=tv"),
    *("create name=new flash=tv size=1MiB socket=new.sock", "refresh flash=tv"),
]
MISTAKES = {
    "create name=new flash=emmc0 size=1GiB socket=new.sock": "are free",
    "create name=new flash=emmc0 size=1MiB socket=cluster.sock": "cluster.sock",
    "create name=new flash=emmc0 size=1MiB socket=new.sock owner=nobody-of-this-name": "there is no user",
    "create name=../new flash=emmc0 size=1MiB socket=new.sock": "name: ",
    "grow name=cluster size=big": 'size: a size is written like "8 GiB"',
    "grow name=cluster size=1TiB": "are free",
    "limits name=cluster when_spent=burn": "when_spent: ",
    "log_level level=loud": "level: ",
    "watch recent=-1": "recent: ",
    "stat": "did you mean status?",
}


def test_what_cannot_be_done_is_one_line_and_changes_nothing(server: Operated) -> None:
    before = (server.told("volumes"), server.told("status")["flashes"][0]["free"])
    for words in UNKNOWN:
        assert "there is no flash 'tv'" in (line := server.refused(*words.split())) or (
            "there is no volume 'tv'; there are: cluster, infotainment" in line
        )
    for words, said in MISTAKES.items():
        assert said in server.refused(*words.split()), words
    assert (server.told("volumes"), server.told("status")["flashes"][0]["free"]) == before
    server.ctl("create", "name=new", "flash=emmc0", "size=1MiB", "socket=new.sock")
