"""Servers to drive, each in a process of its own: QEMU's storage daemon and virtflash."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from virtflash.demo.server_process import is_listening

KINDS = ["qemu", "virtflash"]
IMAGE_BYTES = 16 << 20
START_SECONDS = 10.0
QUEUES = 2


class Server:
    """A server in a process of its own, with the image that it serves."""

    def __init__(self, kind: str, image: Path, socket_path: Path, process: subprocess.Popen[bytes]) -> None:
        self.kind = kind
        self.image = image
        self.socket = socket_path
        self.process = process


def command(kind: str, image: Path, socket_path: Path) -> list[str]:
    if kind == "virtflash":
        program = Path(sys.executable).with_name("virtflash")
        return [str(program), "serve", "--image", str(image), "--socket", str(socket_path), "--queues", str(QUEUES)]
    node = f"driver=file,node-name=d,filename={image},discard=unmap"
    export = f"type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path={socket_path},writable=on"
    return ["qemu-storage-daemon", "--blockdev", node, "--export", f"{export},num-queues={QUEUES}"]


def wait_listening(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_listening(path):
        assert process.poll() is None, f"{process.args} ended with status {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args} does not listen"
        time.sleep(0.01)


@contextmanager
def serve(kind: str, directory: Path) -> Iterator[Server]:
    if kind == "qemu" and shutil.which("qemu-storage-daemon") is None:
        pytest.skip("qemu-storage-daemon is not installed")
    image, socket_path = directory / "image", directory / "socket"
    image.write_bytes(os.urandom(IMAGE_BYTES))
    process = subprocess.Popen(command(kind, image, socket_path))
    try:
        wait_listening(socket_path, process)
        yield Server(kind, image, socket_path, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with ExitStack() as stack:
        yield stack.enter_context(serve(request.param, tmp_path))
