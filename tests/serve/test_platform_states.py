"""What a guest sees in each state of the platform: request by request, and whatever it negotiated. Rules bring them
about, from sensors that are pushed and emulated."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from configured import Configured
from watched_server import wait_until

from virtflash.control.client import Client, ControlError
from virtflash.driver.blk import FEATURES, BlkDriver
from virtflash.health.platform_state import PERMISSIONS, PlatformState
from virtflash.service import Service
from virtflash.virtio.blk import CONFIG_WRITEBACK_OFFSET, BlkFeature, Status

PROGRAM = Path(sys.executable).with_name("virtflash")
OK, IOERR = Status.OK, Status.IOERR
STATES = ("durable", "throttled", "read-only", "offline")
VOLUMES = {"cluster": '8 MiB\npriority = "critical"', "infotainment": "16 MiB"}
DATA = b"d" * 4096
RULE = """
[[health.rule]]
sensor = "platform.{state}"
above = 0
state = "{state}"
on_enter = "{on_enter}"
volumes = ["infotainment"]
"""
BY_STATE = "".join(RULE.format(state=state, on_enter="flush") for state in STATES)

# Without a flush at its end a write is volatile: which of these modes a driver has got (virtio 1.4 §5.2.6.2).
MODES: dict[str, Callable[[Path], BlkDriver]] = {}


def mode(name: str) -> Callable[[Callable[[Path], BlkDriver]], Callable[[Path], BlkDriver]]:
    def keep(connect: Callable[[Path], BlkDriver]) -> Callable[[Path], BlkDriver]:
        MODES[name] = connect
        return connect

    return keep


@mode("write-back")
def write_back(socket: Path) -> BlkDriver:
    driver = BlkDriver(socket)
    driver.front_end.set_config(CONFIG_WRITEBACK_OFFSET, b"\x01")
    return driver


@mode("write-through")
def write_through(socket: Path) -> BlkDriver:
    driver = BlkDriver(socket)
    driver.front_end.set_config(CONFIG_WRITEBACK_OFFSET, b"\x00")
    return driver


@mode("no cache mode")
def no_cache_mode(socket: Path) -> BlkDriver:
    """FLUSH without CONFIG_WCE: it counts on nothing that it has not flushed."""
    return BlkDriver(socket, features=FEATURES & ~int(BlkFeature.CONFIG_WCE))


@mode("no flush")
def no_flush(socket: Path) -> BlkDriver:
    return BlkDriver(socket, features=FEATURES & ~int(BlkFeature.CONFIG_WCE | BlkFeature.FLUSH))


VOLATILE = {"write-back", "no cache mode"}
REQUESTS: dict[str, Callable[[BlkDriver], int]] = {
    "read": lambda driver: driver.read(0, 4096).status,
    "write": lambda driver: driver.write(64, DATA).status,
    "flush": lambda driver: driver.flush().status,
    "discard": lambda driver: driver.discard(128, 8).status,
    "write zeroes": lambda driver: driver.write_zeroes(192, 8).status,
    "secure erase": lambda driver: driver.secure_erase(256, 8).status,
    "get id": lambda driver: driver.get_id().status,
    "get lifetime": lambda driver: driver.get_lifetime().status,
}
CHANGES = {"write", "discard", "write zeroes", "secure erase"}
REFUSED = {"normal": set(), "durable": set(), "throttled": set(), "read-only": CHANGES, "offline": CHANGES | {"read"}}


def state_of(configured: Configured, name: str = "infotainment") -> str:
    found: str = next(each for each in configured.ask("volumes") if each["name"] == name)["health"]["state"]
    return found


@dataclass
class Watched:
    """A server whose sensors are pushed by the test."""

    configured: Configured
    service: Service

    def socket(self, name: str) -> Path:
        return self.configured.socket(name)

    def push(self, name: str, value: float) -> None:
        self.configured.ask("push", sensor=f"platform.{name}", value=value, ttl="1 h")

    def state(self) -> str:
        return state_of(self.configured)

    def become(self, state: str) -> None:
        for each in STATES:
            self.push(each, float(each == state))
        self.await_state(state)

    def await_state(self, state: str) -> None:
        wait_until(lambda: self.state() == state, lambda: f"it is {self.state()}, and not {state}")

    def is_volatile(self) -> bool:
        flash = self.service.server.flashes["emmc0"]
        return flash.is_unstable("infotainment")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    configured = Configured(tmp_path_factory.mktemp("states"), VOLUMES, BY_STATE)
    with configured.served() as service:
        yield Watched(configured, service)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("state", REFUSED)
def test_what_a_guest_sees(watched: Watched, state: str, request_name: str, name: str) -> None:
    watched.become(state)
    with MODES[name](watched.socket("infotainment")) as driver:
        unsupported = request_name == "flush" and name == "no flush"
        wanted = IOERR if request_name in REFUSED[state] else OK
        status = REQUESTS[request_name](driver)
        assert status == (Status.UNSUPP if unsupported and status == Status.UNSUPP else wanted)
        if request_name == "write" and status == OK:
            assert watched.is_volatile() == (name in VOLATILE and state != "durable")
        if request_name == "flush" and status == OK and not unsupported:
            assert not watched.is_volatile()
        if state != "offline":
            assert driver.read(0, 512).status == OK
    with BlkDriver(watched.socket("cluster")) as other:
        other.write(0, DATA).check()


def test_what_passes_is_as_the_table_says() -> None:
    """The data plane's table, and the one that this test goes by."""
    words = {name: name.replace(" ", "_") for name in CHANGES | {"read"}}
    for state, refused in REFUSED.items():
        assert PERMISSIONS[PlatformState.of(state)].refused == {words[name] for name in refused}


def test_what_was_accepted_before_a_state_is_stable_in_it(watched: Watched) -> None:
    watched.become("normal")
    with MODES["write-back"](watched.socket("infotainment")) as driver:
        for state in ("durable", "read-only"):
            driver.write(512, DATA).check()
            assert watched.is_volatile()
            watched.become(state)
            wait_until(lambda: not watched.is_volatile(), "it is made stable")
            watched.become("normal")


def test_an_operator_erases_nothing_that_may_not_be_written(watched: Watched) -> None:
    """Though another volume of the flash may."""
    watched.become("read-only")
    with pytest.raises(ControlError, match="infotainment may not be written now"):
        watched.configured.ask("erase", name="infotainment")
    watched.become("normal")


def test_why_is_told(watched: Watched) -> None:
    watched.become("normal")
    with Client(watched.socket("control")) as client:
        events = client.events(events=["state-changed"], volume="infotainment")
        watched.become("read-only")
        event = next(iter(events))
    assert event.volume == "infotainment"
    assert (event.data["before"], event.data["state"]) == ("normal", "read-only")
    assert "platform.read-only is 1, above 0" in event.text
    told = next(each for each in watched.configured.ask("volumes") if each["name"] == "infotainment")
    assert told["state"] == "read-only"
    assert told["health"]["causes"] != []
    with BlkDriver(watched.socket("infotainment")) as driver:
        assert driver.write(0, DATA).status == IOERR
    told = next(each for each in watched.configured.ask("volumes") if each["name"] == "infotainment")
    assert told["refused"] >= 1
    watched.become("normal")


FREEZE = (
    RULE.format(state="read-only", on_enter="freeze")
    .replace("platform.read-only", "emmc0.temperature")
    .replace("above = 0", 'above = "90 degC"\nuntil = "80 degC"')
)


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[Watched]:
    configured = Configured(tmp_path, VOLUMES, FREEZE)
    with configured.served() as service:
        yield Watched(configured, service)


def heat(watched: Watched, celsius: float | None) -> None:
    watched.configured.ask("simulate", sensor="emmc0.temperature", value=celsius)


def test_frozen_a_flush_fails_where_something_is_unstable(hot: Watched) -> None:
    """It was accepted and is in the cache of the part: nothing is written any more, and it is not lost either."""
    with MODES["write-back"](hot.socket("infotainment")) as driver:
        driver.write(0, DATA).check()
        heat(hot, 95.0)
        hot.await_state("read-only")
        assert driver.flush().status == IOERR
        assert driver.write(0, DATA).status == IOERR
        assert driver.read(0, 4096).check().data == DATA
        assert hot.is_volatile()
        with BlkDriver(hot.socket("cluster")) as other:
            other.write(0, DATA).check()
            other.flush().check()
        heat(hot, 85.0)  # above `until`: hysteresis
        assert driver.flush().status == IOERR
        heat(hot, 79.0)
        hot.await_state("normal")
        driver.flush().check()
        assert not hot.is_volatile()


def test_frozen_neither_a_change_of_mode_nor_an_operator_writes(hot: Watched) -> None:
    """And what was not stable becomes so when it may be: in its new mode the driver sends no flush any more."""
    with MODES["write-back"](hot.socket("infotainment")) as driver:
        driver.write(0, DATA).check()
        heat(hot, 95.0)
        hot.await_state("read-only")
        driver.front_end.set_config(CONFIG_WRITEBACK_OFFSET, b"\x00")
        with pytest.raises(ControlError, match="frozen"):
            hot.configured.ask("flush", name="infotainment")
        assert hot.is_volatile()
        heat(hot, 25.0)
        hot.await_state("normal")
        wait_until(lambda: not hot.is_volatile(), "it is not made stable")
        assert driver.flush().status == OK


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("grow", {"name": "cluster", "size": "10 MiB"}),
        ("create", {"name": "late", "flash": "emmc0", "size": "2 MiB", "socket": "late.sock"}),
        ("erase", {"name": "infotainment"}),
        ("erase", {"name": "cluster"}),
        ("delete", {"name": "cluster"}),
        ("refresh", {}),
    ],
)
def test_frozen_the_operator_waits_for_other_volumes_too(
    hot: Watched, method: str, parameters: dict[str, object]
) -> None:
    """A change of the table, or an erasure, flushes whatever the flash has accepted."""
    with MODES["write-back"](hot.socket("infotainment")) as driver:
        driver.write(0, DATA).check()
        heat(hot, 95.0)
        hot.await_state("read-only")
        with pytest.raises(ControlError, match="may not be written now"):
            hot.configured.ask(method, **parameters)
        assert hot.is_volatile()
        assert driver.read(0, 4096).check().data == DATA


def test_frozen_the_end_of_the_server_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what was spent of a budget: what is noted ahead of it counts at the next start."""
    volumes = {"infotainment": '16 MiB\nwear_budget = "20 GB/day"'}
    configured = Configured(tmp_path, volumes, FREEZE)
    with configured.served() as service:
        watched = Watched(configured, service)
        flash = service.server.flashes["emmc0"]
        chip, close = flash.storage.chip, flash.close
        with MODES["write-back"](watched.socket("infotainment")) as driver:
            driver.write(0, DATA).check()
            heat(watched, 95.0)
            watched.await_state("read-only")
        before = programs(chip.counters())
        after: list[float] = []

        def closing() -> None:
            after.append(programs(chip.counters()))
            close()

        monkeypatch.setattr(flash, "close", closing)
    assert after == [before]


def programs(counters: dict[str, float]) -> float:
    return counters["programs"] + counters["slc_programs"]


def test_frozen_a_flush_of_nothing_succeeds(hot: Watched) -> None:
    with MODES["write-back"](hot.socket("infotainment")) as driver:
        driver.write(0, DATA).check()
        driver.flush().check()
        heat(hot, 95.0)
        hot.await_state("read-only")
        assert driver.flush().status == OK
    heat(hot, 25.0)


def test_what_the_operator_wants_has_to_wait(tmp_path: Path) -> None:
    """A flash that none of its volumes may write is not written on behalf of the operator either."""
    rule = RULE.format(state="offline", on_enter="flush").replace('volumes = ["infotainment"]\n', "")
    configured = Configured(tmp_path, VOLUMES, rule)
    with configured.served() as service:
        watched = Watched(configured, service)
        watched.push("offline", 1)
        watched.await_state("offline")
        calls = (
            ("erase", {"name": "cluster"}),
            ("grow", {"name": "cluster", "size": "10 MiB"}),
            ("refresh", {}),
            ("delete", {"name": "cluster"}),
        )
        with BlkDriver(watched.socket("cluster")) as driver:
            for method, parameters in calls:
                with pytest.raises(ControlError, match="may not be written now"):
                    configured.ask(method, **parameters)
            assert driver.flush().status == OK, "its machine is not cut off for what is refused"
        configured.write({**VOLUMES, "cluster": VOLUMES["cluster"] + "\nsecure_delete = true"}, rule)
        assert "may not be written now" in configured.ask("reload")["refused"][0]
        watched.push("offline", 0)
        watched.await_state("normal")
        configured.ask("erase", name="cluster")
        assert configured.ask("reload")["applied"] != []


def test_a_volume_that_is_there_is_served_again_in_any_state(tmp_path: Path) -> None:
    """Nothing has to be written for that; and it begins in the state that holds."""
    rule = FREEZE.replace('volumes = ["infotainment"]\n', "")
    configured = Configured(tmp_path, VOLUMES, rule)
    with configured.served() as service:
        watched = Watched(configured, service)
        heat(watched, 95.0)
        watched.await_state("read-only")
        configured.write({"cluster": VOLUMES["cluster"]}, rule)
        configured.ask("reload")
        configured.write(VOLUMES, rule)
        assert configured.ask("reload") == {"applied": ["[volume.infotainment]: served"], "refused": []}
        assert watched.state() == "read-only"
        with BlkDriver(watched.socket("infotainment")) as driver:
            assert [driver.read(0, 512).status, driver.write(0, DATA).status] == [OK, IOERR]


def test_what_waits_for_a_rate_is_refused_when_it_gets_stricter(watched: Watched) -> None:
    """Throttled to 1 MB/s a flood waits; then nothing may be written any more, and nothing hangs."""
    watched.become("throttled")
    with BlkDriver(watched.socket("infotainment"), queue_size=256) as driver:
        pending = [driver.submit(1, 256 * number, bytes(131072)) for number in range(24)]
        told = next(each for each in watched.configured.ask("volumes") if each["name"] == "infotainment")
        assert told["health"]["write_rate"] == 1_000_000
        watched.push("read-only", 1.0)
        watched.await_state("read-only")
        statuses = [driver.complete(each, timeout=5).status for each in pending]
        assert set(statuses) == {OK, IOERR}
    watched.become("normal")


def test_it_is_noted_on_the_flash(tmp_path: Path) -> None:
    """What happened while nothing could be written, too."""
    configured = Configured(tmp_path, VOLUMES, FREEZE)
    with configured.in_a_child():
        for celsius, state in ((95.0, "read-only"), (25.0, "normal")):
            configured.ask("simulate", sensor="emmc0.temperature", value=celsius)
            wait_until(lambda state=state: state_of(configured) == state, state)  # type: ignore[misc]
    told = subprocess.run(
        [PROGRAM, "log", "emmc0.vflash", "--json", "--volume", "infotainment"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    records = [json.loads(line) for line in told.stdout.splitlines()]
    words = [record["text"] for record in records if record["kind"] == "state-changed"]
    assert len(words) == 2
    assert words[0].startswith("read-only, frozen: emmc0.temperature is 95 degC, above 90 degC")
    assert words[1] == "normal"
