"""Debian's stock kernel in QEMU 7.2: a modern, a transitional and a legacy device."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import block_exercise
import pytest
from block_exercise import MEBIBYTE, SLACK_BYTES, has_feature
from qemu_machine import (
    CONSOLE,
    LEGACY,
    MODERN,
    TRANSITIONAL,
    LinuxConsole,
    linux_options,
    make_initramfs,
    qemu_command,
)
from served import Serve, announced, requests, volume_statistics
from uml_machine import FILE_BYTES, FIND_AND_TRIM, MAKE_FILE_SYSTEM, run_uml

from virtflash.demo.server_process import ServerProcess
from virtflash.virtio.ring_features import RingFeature

SECONDS = 60.0  # a boot takes about four on two quiet processors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def run_linux(
    server: ServerProcess,
    device: str,
    script: str,
    kernel: Path,
    directory: Path,
    options: Sequence[str] = (),
    *,
    may_restart: bool = False,
) -> dict[str, str]:
    initramfs = make_initramfs(kernel / "modules", script, directory)
    words = [*linux_options(kernel / "vmlinuz", initramfs), *options]
    with LinuxConsole(qemu_command(server.socket, device, words, may_restart=may_restart)) as machine:
        return machine.run(SECONDS)


@pytest.mark.parametrize(
    ("device", "pci", "version_1"),
    # The PCI device ids: virtio 1.4 §4.1.2. VERSION_1: what the guest's driver makes of it.
    [
        pytest.param(MODERN, "0x1042", True, id="modern"),
        pytest.param(TRANSITIONAL, "0x1001", True, id="transitional"),
        pytest.param(LEGACY, "0x1001", False, id="legacy"),
    ],
)
def test_a_guest_reads_writes_and_trims(
    device: str, pci: str, version_1: bool, serve: Serve, guest_kernel: Path, tmp_path: Path
) -> None:
    server = serve("--serial", block_exercise.SERIAL)
    data = block_exercise.prepare(server)
    reports = run_linux(server, device, block_exercise.SCRIPT, guest_kernel, tmp_path)
    assert reports["pci"] == pci
    assert has_feature(reports, RingFeature.VERSION_1) == version_1
    block_exercise.check(server, data, reports)


def test_a_legacy_guest_trims_the_file_system_of_another_one(serve: Serve, guest_kernel: Path, tmp_path: Path) -> None:
    """With what a virtio 1.0 device offers, too: TRIM came with 1.1, and guests of that age carry it as a patch."""
    server = serve("--spec", "1.0")
    made = run_uml(server, MAKE_FILE_SYSTEM, tmp_path)
    full = server.host_bytes()
    found = run_linux(server, LEGACY, FIND_AND_TRIM, guest_kernel, tmp_path)
    assert found["digest"] == made["digest"]
    assert full >= FILE_BYTES
    assert server.host_bytes() <= full - FILE_BYTES + SLACK_BYTES
    assert requests(volume_statistics(server))["write_zeroes"] == 0  # which 1.0 did not have


QUEUES = """
report queues "$(ls /sys/block/vda/mq | wc -l)"
for processor in 0 1; do
    taskset -c "$processor" dd if=/dev/vda of=/dev/null bs=1M count=8 skip=$((processor * 8)) iflag=direct
done
"""


def test_each_processor_of_a_guest_has_its_queue(serve: Serve, guest_kernel: Path, tmp_path: Path) -> None:
    server = serve("--queues", "2")
    reports = run_linux(server, f"{MODERN},num-queues=2", QUEUES, guest_kernel, tmp_path, ["-smp", "2"])
    assert reports["queues"] == "2"
    for queue in volume_statistics(server)["queues"]:
        assert queue["bytes_read"] >= 8 * MEBIBYTE


def test_the_options_that_the_server_prints_attach_a_guest(serve: Serve, guest_kernel: Path, tmp_path: Path) -> None:
    server = serve()
    line = announced(server, "attach")
    initramfs = make_initramfs(guest_kernel / "modules", 'report size "$(cat /sys/block/vda/size)"', tmp_path)
    command = [*shlex.split(line)[1:], *CONSOLE, *linux_options(guest_kernel / "vmlinuz", initramfs)]
    with LinuxConsole(command) as machine:
        assert machine.run(SECONDS)["size"] == str(server.image.stat().st_size // 512)


RESTART = """
if [ "$(dd if=/dev/vda bs=1 count=1)" = R ]; then
    report mode "$(cat /sys/block/vda/cache_type)"
else
    echo "write through" >/sys/block/vda/cache_type
    printf R | dd of=/dev/vda
    echo b >/proc/sysrq-trigger
    exec tail -f /dev/null
fi
"""


def test_what_a_guest_holds_for_write_through_is_that_after_its_restart(
    serve: Serve, guest_kernel: Path, tmp_path: Path
) -> None:
    """QEMU shows the guest its own copy of `writeback`, in which the 0 of the guest's last life is still there.

    The firmware in between negotiates other features, and another reset comes with them.
    """
    server = serve()
    mode = run_linux(server, MODERN, RESTART, guest_kernel, tmp_path, may_restart=True)["mode"]
    started = [line for line in server.log.read_text().splitlines() if "ring 0 started" in line]
    assert len(started) == 4  # firmware and Linux, twice
    assert mode == "write back" or started[-1].endswith("write-through")
