"""A configuration served: each volume at its socket, its owner, its limits; what changes while guests are there."""

import errno
import os
import pwd
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from configured import MIB, Configured
from watched_server import wait_until

from virtflash.config import ConfigurationError, read_configuration
from virtflash.control.client import Client, ControlError
from virtflash.driver.blk import BlkDriver
from virtflash.service import Service
from virtflash.virtio.blk import RequestType, Status

SECTOR = 512
TWO = {"cluster": "16 MiB", "infotainment": "32 MiB"}


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Configured]:
    return lambda volumes=TWO, *more: Configured(tmp_path, volumes, *more)


def stamp(name: str, sector: int) -> bytes:
    return f"{name} {sector} ".encode().ljust(32, b".") * (4096 // 32)


def write_stamps(driver: BlkDriver, name: str, first: int = 0, count: int = 64) -> None:
    for sector in range(first, first + 8 * count, 8):
        driver.write(sector, stamp(name, sector)).check()


def check_stamps(driver: BlkDriver, name: str, first: int = 0, count: int = 64) -> None:
    for sector in range(first, first + 8 * count, 8):
        assert driver.read(sector, 4096).check().data == stamp(name, sector)


@pytest.mark.parametrize("isolation", ["shared", "blocks"])
def test_each_volume_keeps_its_own(configure: Callable[..., Configured], isolation: str) -> None:
    """Over a restart, too; and a trim of all of one leaves the other's bytes."""
    configured = configure(TWO, "", f'isolation = "{isolation}"\n')
    with configured.served() as service:
        with BlkDriver(configured.socket("cluster")) as one, BlkDriver(configured.socket("infotainment")) as other:
            assert (one.capacity, other.capacity) == (16 * MIB // SECTOR, 32 * MIB // SECTOR)
            for driver, name in ((one, "cluster"), (other, "infotainment")):
                write_stamps(driver, name)
                write_stamps(driver, name, driver.capacity - 512)
                driver.flush().check()
            assert other.read(other.capacity, SECTOR).status == Status.IOERR
            other.discard(0, other.capacity).check()
            check_stamps(one, "cluster")
            assert other.read(0, 4096).check().data == bytes(4096)
        if isolation == "blocks":
            service.server.flashes["emmc0"].storage.target.flush()
            owners = service.server.flashes["emmc0"].storage.target.owners_of_blocks()
            assert all(len(set(block) - {0}) <= 1 for block in owners)
    with configured.served(), BlkDriver(configured.socket("cluster")) as one:
        check_stamps(one, "cluster")
        check_stamps(one, "cluster", one.capacity - 512)


def test_a_new_owner_sees_nothing_of_the_old_one(configure: Callable[..., Configured]) -> None:
    configured = configure()
    with configured.served():
        with BlkDriver(configured.socket("infotainment")) as driver:
            write_stamps(driver, "secret", count=256)
            driver.flush().check()
        configured.ask("delete", name="infotainment", secure=True)
        assert not configured.socket("infotainment").exists()
        configured.ask("create", name="next", flash="emmc0", size="32 MiB", socket="next.sock")
        with BlkDriver(configured.socket("next")) as driver:
            assert driver.read(0, 256 * 4096).check().data == bytes(256 * 4096)
    assert b"secret 8 " not in (configured.directory / "emmc0.vflash").read_bytes()


def test_a_volume_that_grows_tells_its_guest(configure: Callable[..., Configured]) -> None:
    configured = configure()
    with configured.served():
        with BlkDriver(configured.socket("cluster")) as driver:
            write_stamps(driver, "cluster")
            configured.ask("grow", name="cluster", size="24 MiB")
            assert driver.backend_requests is not None
            assert driver.backend_requests.receive().request
            assert driver.read_config().capacity == 24 * MIB // SECTOR
            write_stamps(driver, "cluster", 24 * MIB // SECTOR - 512)
            check_stamps(driver, "cluster", 24 * MIB // SECTOR - 512)
            check_stamps(driver, "cluster")
        with pytest.raises(ControlError, match="never has fewer"):
            configured.ask("grow", name="cluster", size="20 MiB")
    with configured.served(), BlkDriver(configured.socket("cluster")) as driver:
        assert driver.capacity == 24 * MIB // SECTOR  # and the file still says 16: it is told, and nothing is lost


def test_growing_and_deleting_under_load_loses_nothing(configure: Callable[..., Configured]) -> None:
    """Of a guest that has requests in flight all the time."""
    configured = configure({"cluster": "16 MiB", "infotainment": "8 MiB", "telematics": "4 MiB"})
    with configured.served(), BlkDriver(configured.socket("cluster")) as driver:
        for step in range(6):
            pending = [driver.submit(0, sector * 8, room=4096) for sector in range(40)]
            if step == 1:
                configured.ask("delete", name="telematics")
            if step in (2, 3):
                configured.ask("grow", name="cluster", size=f"{16 + step} MiB")
            if step == 4:
                configured.ask("delete", name="infotainment", secure=True)
            assert [driver.complete(each).status for each in pending] == [Status.OK] * 40


OTHER = next((user.pw_name for user in pwd.getpwall() if user.pw_uid not in (0, os.getuid())), None)


PYTHON = "/usr/bin/python3"  # that other users may run


@pytest.mark.skipif(os.getuid() != 0 or OTHER is None, reason="becoming another user takes root")
@pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"there is no {PYTHON}")
@pytest.mark.parametrize(
    ("owner", "admitted"), [("other", True), ("root", False), ("group", True), ("further group", True)]
)
def test_only_its_owner_may_connect(tmp_path: Path, owner: str, admitted: bool) -> None:
    """Whatever the mode says: whoever connects is looked at."""
    user = pwd.getpwnam(str(OTHER))
    name = {"other": user.pw_name, "root": "root", "group": f"group:{user.pw_gid}", "further group": "group:4711"}[
        owner
    ]
    configured = Configured(tmp_path, {"cluster": f'8 MiB\nowner = "{name}"\nmode = "0666"'})
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:-1]:
        parent.chmod(parent.stat().st_mode | 0o011)
    connect = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(3)\n"
    # A message that is none is answered by nobody who was let in before he hangs up.
    connect += "s.send(bytes.fromhex('010000000100000000000000')); sys.exit(len(s.recv(1)) != 1)"
    with configured.served():
        child = subprocess.run(
            [PYTHON, "-c", connect, str(configured.socket("cluster"))],
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[4711] if owner == "further group" else [],
            check=False,
            capture_output=True,
        )
        assert (child.returncode == 0) == admitted, child.stderr.decode()
        if owner == "other":
            assert configured.socket("cluster").stat().st_uid == user.pw_uid


def test_others_yield_to_a_critical_volume(configure: Callable[..., Configured]) -> None:
    """Nothing is lost on either side, nobody starves, and what was begun ahead of a read is one call of others."""
    configured = configure(
        {"cluster": '16 MiB\npriority = "critical"', "infotainment": "48 MiB"}, "", 'timing = "real"\n'
    )
    with configured.served() as service:
        with BlkDriver(configured.socket("cluster")) as one, BlkDriver(configured.socket("infotainment")) as other:
            write_stamps(one, "cluster")
            one.flush().check()
            for step in range(12):
                written = [other.submit(1, 2048 * step + 64 * n, stamp("other", step) * 8) for n in range(8)]
                flushed = other.submit(4, 0)
                check_stamps(one, "cluster")
                assert [other.complete(each).status for each in [*written, flushed]] == [Status.OK] * 9
            for step in range(12):
                for n in range(8):
                    assert other.read(2048 * step + 64 * n, 32768).check().data == stamp("other", step) * 8
            other.secure_erase(0, 2048 * 12).check()
            other.discard(0, other.capacity).check()
            assert other.read(0, 65536).check().data == bytes(65536)
            check_stamps(one, "cluster")
        cluster = service.server.find("cluster")
        assert cluster is not None and cluster.export.binding.critical
        assert cluster.export.binding.foreign_most <= 8
    with configured.served(), BlkDriver(configured.socket("cluster")) as one:
        check_stamps(one, "cluster")


# Limits

# What is configured, what is changed, and what is told then.
LIMITS: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "none": (
        "",
        {},
        dict.fromkeys(("iops", "iops_burst", "bandwidth", "bandwidth_burst", "wear_budget", "wear_burst")),
    ),
    "the usual bursts": (
        'iops = "500 /s"\nbandwidth = "20 MB/s"\nwear_budget = "240 GB/day"',
        {},
        {"iops_burst": 50, "bandwidth_burst": 2_000_000, "wear_burst": 10 * 10**9},
    ),
    "bursts of the file": (
        'iops = "500 /s"\niops_burst = 7\nbandwidth = "20 MB/s"\nbandwidth_burst = "1 MiB"\n'
        'wear_budget = "240 GB/day"\nwear_burst = "2 MiB"',
        {},
        {"iops": 500, "iops_burst": 7, "bandwidth_burst": MIB, "wear_burst": 2 * MIB},
    ),
    "bursts given": (
        'iops = "500 /s"\nbandwidth = "20 MB/s"\nwear_budget = "240 GB/day"',
        {"iops_burst": 9, "bandwidth_burst": "2 MiB", "wear_burst": "3 MiB"},
        {"iops": 500, "iops_burst": 9, "bandwidth_burst": 2 * MIB, "wear_burst": 3 * MIB},
    ),
    "bursts given up": (
        'iops = "500 /s"\niops_burst = 7\nbandwidth = "20 MB/s"\nbandwidth_burst = "1 MiB"',
        {"iops_burst": None, "bandwidth_burst": None},
        {"iops_burst": 50, "bandwidth_burst": 2_000_000, "wear_burst": None},
    ),
    "a burst before its limit": ("", {"iops_burst": 9}, {"iops": None, "iops_burst": 9}),
    "least": ('iops = "1 /s"\nwear_budget = "1 MB/day"', {}, {"iops_burst": 1, "wear_burst": MIB}),
}


@pytest.mark.parametrize("case", LIMITS)
def test_limits_are_told_with_their_bursts(case: str, configure: Callable[..., Configured]) -> None:
    configured_as, change, told = LIMITS[case]
    configured = configure({"cluster": f"16 MiB\n{configured_as}"})
    with configured.served():
        answer = configured.ask("limits", name="cluster", **change)
        assert answer | told == answer
        assert configured.ask("limits", name="cluster") == answer
        assert configured.ask("volumes")[0]["limits"] == answer
        assert configured.ask("status")["volumes"][0]["limits"] == answer


@pytest.mark.parametrize("by", ["limits", "reload"])
def test_a_burst_changes_while_guests_run(by: str, configure: Callable[..., Configured]) -> None:
    """At the rate alone the guest would wait for half a minute."""
    configured = configure({"cluster": '16 MiB\niops = "1 /s"\niops_burst = 4'})
    with configured.served(), BlkDriver(configured.socket("cluster")) as driver:
        for number in range(40):
            driver.submit(RequestType.IN, number, room=SECTOR)
        wait_until(lambda: configured.ask("volumes")[0]["delayed"] > 0, "no request waits")
        if by == "limits":
            assert configured.ask("limits", name="cluster", iops_burst=256)["iops_burst"] == 256
        else:
            configured.write({"cluster": '16 MiB\niops = "1 /s"\niops_burst = 256'})
            assert configured.ask("reload")["applied"] == ["[volume.cluster] iops_burst: 4 -> 256"]
        assert [done.status for done in driver.complete_all(timeout=15)] == [Status.OK] * 40
        assert configured.ask("volumes")[0]["limits"]["iops_burst"] == 256


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("iops", "0 /s", "iops: nothing at all would pass; give null for no limit"),
        ("bandwidth_burst", 0, "bandwidth_burst: nothing at all would pass; give null for the usual burst"),
        ("wear_burst", "0 B", "wear_burst: nothing at all would pass; give null for the usual burst"),
        ("iops_burst", 0, "iops_burst: expected int >= 1"),
    ],
)
def test_a_limit_of_nothing_is_refused(
    key: str, value: object, told: str, configure: Callable[..., Configured]
) -> None:
    configured = configure({"cluster": '16 MiB\nwear_budget = "1 GB/day"'})
    with configured.served():
        before = configured.ask("limits", name="cluster")
        with pytest.raises(ControlError, match=re.escape(told)):
            configured.ask("limits", name="cluster", **{key: value})
        assert configured.ask("limits", name="cluster") == before


# Wear budgets


BUDGET = 'wear_budget = "100 MB/day"\nwear_burst = "{burst}"\nwhen_spent = "{answer}"'


def spend(driver: BlkDriver, limit: int) -> int:
    """Write until it is refused; how many MiB were taken."""
    for number in range(limit):
        if driver.write(number % 8 * MIB // SECTOR, os.urandom(MIB)).status != Status.OK:
            return number
    return limit


def test_a_budget_holds_over_kill_9(tmp_path: Path) -> None:
    configured = Configured(tmp_path, {"cluster": "16 MiB\n" + BUDGET.format(burst="16 MiB", answer="read-only")})
    with configured.in_a_child(signal.SIGKILL), BlkDriver(configured.socket("cluster")) as driver:
        first = spend(driver, 40)
        assert 4 <= first <= 17
        assert configured.ask("wear")[0]["budget"]["spent"]
    with configured.in_a_child(signal.SIGKILL), BlkDriver(configured.socket("cluster")) as driver:
        assert spend(driver, 40) <= 1  # what a step from one mark to the next was ahead is not given again
        assert driver.read(0, 4096).status == Status.OK


def test_a_budget_that_is_hardly_spent_is_not_lost_to_kill_9(tmp_path: Path) -> None:
    configured = Configured(tmp_path, {"cluster": "16 MiB\n" + BUDGET.format(burst="16 MiB", answer="read-only")})
    with configured.in_a_child(signal.SIGKILL), BlkDriver(configured.socket("cluster")) as driver:
        assert spend(driver, 2) == 2
    with configured.in_a_child(), BlkDriver(configured.socket("cluster")) as driver:
        assert spend(driver, 3) == 3


def test_a_clean_stop_notes_what_was_truly_spent(configure: Callable[..., Configured]) -> None:
    configured = configure({"cluster": "16 MiB\n" + BUDGET.format(burst="16 MiB", answer="throttle")})
    with configured.served():
        with BlkDriver(configured.socket("cluster")) as driver:
            assert spend(driver, 4) == 4
        left = configured.ask("wear")[0]["budget"]["left"]
    with configured.served():
        assert abs(configured.ask("wear")[0]["budget"]["left"] - left) < MIB


def test_a_spent_budget_is_an_event(configure: Callable[..., Configured]) -> None:
    configured = configure({"cluster": "16 MiB\n" + BUDGET.format(burst="4 MiB", answer="read-only")})
    with configured.served(), Client(configured.socket("control")) as client:
        events = client.events(events=["budget-spent"])
        with BlkDriver(configured.socket("cluster")) as driver:
            assert spend(driver, 40) < 40
        event = next(iter(events))
        assert (event.kind, event.volume) == ("budget-spent", "cluster")


def test_a_budget_that_is_set_later_owes_nothing_from_before(configure: Callable[..., Configured]) -> None:
    """Nor does a volume for what another one with its number has cost."""
    configured = configure({"cluster": "16 MiB", "infotainment": "16 MiB"})
    with configured.served():
        for name in ("cluster", "infotainment"):
            with BlkDriver(configured.socket(name)) as driver:
                assert spend(driver, 12) == 12
                driver.flush().check()
        configured.ask("limits", name="cluster", wear_budget="100 MB/day", wear_burst="8 MiB")
        with BlkDriver(configured.socket("cluster")) as driver:
            assert spend(driver, 1) == 1
        assert configured.ask("wear", name="cluster")[0]["budget"]["left"] > 5 * MIB
        configured.ask("delete", name="infotainment")
        configured.ask("create", name="next", flash="emmc0", size="16 MiB", socket="next.sock")
        assert configured.ask("wear", name="next")[0]["programmed"] < MIB


# Reload


def test_reload_applies_what_can_change_and_names_what_cannot(configure: Callable[..., Configured]) -> None:
    configured = configure()
    with configured.served() as service, BlkDriver(configured.socket("cluster")) as driver:
        configured.write(
            {"cluster": '20 MiB\niops = "5000 /s"\nqueues = 2', "infotainment": "8 MiB", "telematics": "4 MiB"}
        )
        answer = configured.ask("reload")
        assert sorted(answer["applied"]) == [
            "[volume.cluster] iops: nothing -> 5000",
            f"[volume.cluster] size: {16 * MIB} -> {20 * MIB}",
            "[volume.telematics]: served",
        ]
        assert [text.partition(":")[0] for text in sorted(answer["refused"])] == [
            "[volume.cluster] queues",
            "[volume.infotainment] size",
        ]
        assert driver.read_config().capacity == 20 * MIB // SECTOR
        assert {v["name"]: v["limits"]["iops"] for v in configured.ask("volumes")}["cluster"] == 5000
        again = configured.ask("reload")
        assert again["applied"] == [] and len(again["refused"]) == 2
        assert service.configuration.volume["cluster"].queues == 1


def test_a_bad_file_changes_nothing(configure: Callable[..., Configured]) -> None:
    configured = configure()
    with configured.served() as service:
        before = service.configuration
        configured.write({"cluster": "20 MiB\nsise = 3", "infotainment": "none"})
        with pytest.raises(ControlError, match=r"virtflash\.toml:\d+: \[volume\.cluster\] sise"):
            configured.ask("reload")
        assert service.configuration == before
        assert [volume["size"] for volume in configured.ask("volumes")] == [16 * MIB, 32 * MIB]


def test_a_volume_that_is_in_use_is_not_taken_away(configure: Callable[..., Configured]) -> None:
    configured = configure()
    with configured.served():
        with BlkDriver(configured.socket("cluster")) as driver:
            configured.write({"infotainment": "32 MiB"})
            assert configured.ask("reload")["refused"] == [
                "[volume.cluster]: served no more: its machine is connected; stop that first"
            ]
            driver.read(0, 4096).check()
        wait_until(lambda: configured.ask("volumes")[0]["front_end"] is None, "the front end has left")
        assert configured.ask("reload")["applied"] == ["[volume.cluster]: served no more"]
        assert not configured.socket("cluster").exists()


def test_hangup_reads_the_file_again(tmp_path: Path) -> None:
    configured = Configured(tmp_path, {"cluster": "8 MiB"})
    with configured.in_a_child() as child:
        configured.write({"cluster": "12 MiB"})
        child.send_signal(signal.SIGHUP)
        wait_until(lambda: configured.ask("volumes")[0]["size"] == 12 * MIB, "the volume has grown", 10)


# What is in the way


@pytest.mark.parametrize(
    ("volumes", "problem"),
    [
        ({"a": "200 MiB"}, "capacity: the volumes on it take"),
        ({"a": '8 MiB\nowner = "nobody-of-this-name"'}, "[volume.a]: there is no user 'nobody-of-this-name'"),
        ({"a": "95 MiB", "b": "1 MiB"}, "[volume.b]: "),
    ],
    ids=["too large", "no such user", "no room"],
)
def test_what_cannot_be_served_is_told_with_its_line(
    configure: Callable[..., Configured], volumes: dict[str, str], problem: str
) -> None:
    configured = configure(volumes)
    with pytest.raises(ConfigurationError) as error:
        Service.create(configured.path, read_configuration(configured.path))
    assert len(error.value.problems) == 1
    assert problem in error.value.problems[0] and error.value.problems[0].startswith(f"{configured.path}:")


# The operator


def test_what_cannot_be_kept_apart_leaves_nothing_behind(configure: Callable[..., Configured]) -> None:
    """The flash could not be opened again with it."""
    configured = configure({"one": "4 MiB"}, "", 'isolation = "blocks"\n')
    with configured.served(), pytest.raises(ControlError, match="cannot be kept apart"):
        for number in range(40):
            configured.ask("create", name=f"v{number}", flash="emmc0", size="512 KiB", socket=f"v{number}.sock")
    with configured.served():
        assert [volume["name"] for volume in configured.ask("volumes")] == ["one"]


def test_a_deletion_that_failed_can_be_tried_again(
    configure: Callable[..., Configured], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: object) -> None:
        raise OSError(errno.EROFS, "the flash takes no more")

    configured = configure()
    with configured.served() as service:
        pool = service.server.flashes["emmc0"].pool
        with monkeypatch.context() as patched, pytest.raises(ControlError, match="takes no more"):
            patched.setattr(pool, "_erase", fails)
            configured.ask("delete", name="infotainment")
        assert [volume.name for volume in pool.being_erased] == ["infotainment"]
        configured.ask("delete", name="infotainment")
        assert pool.being_erased == ()


@pytest.mark.parametrize(("key", "value"), [("serial", "säge"), ("size", 513), ("iops", "0 /s"), ("flash", "emmc9")])
def test_a_volume_that_no_file_could_have_is_not_made(
    configure: Callable[..., Configured], key: str, value: object
) -> None:
    configured = configure()
    with configured.served() as service:
        made = {"name": "new", "flash": "emmc0", "size": "4 MiB", "socket": "new.sock", key: value}
        with pytest.raises(ControlError, match=str(value) if key == "flash" else key):
            configured.ask("create", **made)
        assert [volume.name for volume in service.server.flashes["emmc0"].pool.volumes] == list(TWO)
