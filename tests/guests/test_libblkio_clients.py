"""The newest QEMU, in the tree of scripts/make-lab-tree: its libblkio clients and its generic vhost-user device."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import block_exercise
import pytest
from block_exercise import MEBIBYTE, SLACK_BYTES, has_feature
from qemu_machine import MODERN, QEMU, LinuxConsole, linux_options, make_initramfs, qemu_command
from served import Serve, image_bytes, requests, volume_statistics

from virtflash.backing import create_flash
from virtflash.demo.server_process import ServerProcess
from virtflash.virtio.ring_features import RingFeature

SECONDS = 60.0
# Knows nothing of blocks: it passes on every feature and all of the configuration space.
GENERIC = "vhost-user-test-device-pci,virtio-id=2,num_vqs=1,config_size=96"

pytestmark = pytest.mark.timeout(120)


class Tree:
    """The tree with a directory of one test in it: `directory` as it is named outside of the tree."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = root
        self.directory = directory

    def inside(self, path: Path) -> str:
        """How a program in the tree names a path."""
        return f"/{path.relative_to(self.root)}"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["chroot", str(self.root), *command], capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def options(self, server: ServerProcess) -> str:
        """What names the served disk to QEMU's tools."""
        return f"driver=virtio-blk-vhost-user,path={self.inside(server.socket)},cache.direct=on,discard=unmap"

    def qemu_io(self, server: ServerProcess, *commands: str) -> bool:
        """Whether all of the commands succeeded. A read of another pattern than expected does not."""
        arguments = [word for command in commands for word in ("-c", command)]
        return self.run("qemu-io", "--image-opts", self.options(server), *arguments).returncode == 0


@pytest.fixture
def tree(lab_tree: Path) -> Iterator[Tree]:
    directory = Path(mkdtemp(prefix="virtflash-", dir=lab_tree / "run"))
    yield Tree(lab_tree, directory)
    shutil.rmtree(directory)


@pytest.fixture
def serve_in_tree(tree: Tree, serve: Serve) -> Serve:
    """As `serve`, where the tree's programs can reach it; it ends before the tree's directory goes."""
    return partial(serve, directory=tree.directory)


def test_qemu_io_reads_what_another_one_wrote(serve_in_tree: Serve, tree: Tree) -> None:
    server = serve_in_tree()
    assert tree.qemu_io(server, "write -P 0x5a 1M 4M", "flush")
    assert tree.qemu_io(server, "read -P 0x5a 1M 4M", "read -P 0 5M 1M")
    assert not tree.qemu_io(server, "read -P 0x5b 1M 4M")
    assert requests(volume_statistics(server))["flush"] >= 1


def test_qemu_io_discards_and_zeroes(serve_in_tree: Serve, tree: Tree) -> None:
    server = serve_in_tree()
    assert tree.qemu_io(server, "write -P 0x5a 0 8M")
    assert server.host_bytes() >= 8 * MEBIBYTE
    assert tree.qemu_io(server, "discard 0 4M", "write -z -u 4M 1M", "write -z 5M 1M")
    assert tree.qemu_io(server, "read -P 0 4M 2M", "read -P 0x5a 6M 2M")
    # Discarded and zeroed with leave to unmap: 5 of the 8.
    assert abs(server.host_bytes() - 3 * MEBIBYTE) <= SLACK_BYTES
    served = requests(volume_statistics(server))
    assert (served["discard"], served["write_zeroes"]) == (1, 2)


@pytest.mark.parametrize(("kind", "arguments"), [("read", []), ("write", ["-w"])], ids=["read", "write"])
def test_qemu_img_bench(kind: str, arguments: list[str], serve_in_tree: Serve, tree: Tree) -> None:
    server = serve_in_tree()
    command = ["qemu-img", "bench", "--image-opts", tree.options(server), "-c", "5000", "-d", "32", "-s", "4096"]
    done = tree.run(*command, *arguments)
    assert "Run completed" in done.stdout, done.stderr
    assert requests(volume_statistics(server))[kind] >= 5000


def test_qemu_img_converts_there_and_back_and_compares(serve_in_tree: Serve, tree: Tree) -> None:
    server = serve_in_tree(size=64 * MEBIBYTE)
    source, copy = tree.directory / "source", tree.directory / "copy"
    source.write_bytes(os.urandom(10 * MEBIBYTE) + bytes(54 * MEBIBYTE))
    disk, raw = tree.options(server), f"driver=raw,file.filename={tree.inside(source)}"
    there = tree.run("qemu-img", "convert", "-n", "-f", "raw", tree.inside(source), "--target-image-opts", disk)
    assert there.returncode == 0, there.stderr
    assert tree.run("qemu-img", "compare", "--image-opts", disk, raw).returncode == 0
    back = tree.run("qemu-img", "convert", "--image-opts", disk, "-O", "raw", tree.inside(copy))
    assert back.returncode == 0, back.stderr
    assert copy.read_bytes() == source.read_bytes() == image_bytes(server.image, 0, 64 * MEBIBYTE)
    assert server.host_bytes() <= 10 * MEBIBYTE + SLACK_BYTES
    assert tree.qemu_io(server, "write -P 1 60M 512")
    assert tree.run("qemu-img", "compare", "--image-opts", disk, raw).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("device", [MODERN, GENERIC], ids=["blk", "test-device"])
def test_a_guest_of_the_newest_qemu(device: str, serve_in_tree: Serve, tree: Tree, guest_kernel: Path) -> None:
    server = serve_in_tree("--serial", block_exercise.SERIAL)
    data = block_exercise.prepare(server)
    reports = run_in_tree(tree, server, device, block_exercise.SCRIPT, guest_kernel)
    assert has_feature(reports, RingFeature.VERSION_1)
    block_exercise.check(server, data, reports)


def run_in_tree(tree: Tree, server: ServerProcess, device: str, script: str, kernel: Path) -> dict[str, str]:
    """What a guest of the tree's QEMU reported."""
    initramfs = make_initramfs(kernel / "modules", script, tree.directory)
    copy = Path(shutil.copy(kernel / "vmlinuz", tree.directory))
    options = linux_options(tree.inside(copy), tree.inside(initramfs))
    program = ("chroot", str(tree.root), QEMU)
    with LinuxConsole(qemu_command(tree.inside(server.socket), device, options, program=program)) as machine:
        return machine.run(SECONDS)


SECRET = b"the secret of the car"
ERASE_SECURELY = f"""
yes '{SECRET.decode()}' | dd of=/dev/vda bs=1M count=4 iflag=fullblock conv=fsync
blkdiscard -s /dev/vda
report left "$(dd if=/dev/vda bs=1M count=4 iflag=direct | tr -d '\\000' | wc -c)"
"""


@pytest.mark.slow
def test_a_guest_erases_emulated_flash_securely(tree: Tree, guest_kernel: Path) -> None:
    """Of QEMU's devices only the generic one passes on that the flash can."""
    image = tree.directory / "emmc.vflash"
    create_flash(image, "automotive-tlc-emmc", capacity_bytes=64 * MEBIBYTE, seed=1)
    with ServerProcess(image, tree.directory / "emmc.sock", kind="flash") as server:
        assert run_in_tree(tree, server, GENERIC, ERASE_SECURELY, guest_kernel)["left"] == "0"
        device = volume_statistics(server)["flash"]["device"]
    assert device["bytes_written"] == 4 * MEBIBYTE
    assert device["units_erased_securely"] == 64 * MEBIBYTE // 4096
    assert SECRET not in image.read_bytes()
