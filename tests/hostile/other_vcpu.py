"""Another vCPU of the guest, in a process of its own: it rewrites the same bytes of memory to and fro, without end."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from virtflash.driver.guest_memory import GuestMemory


@contextmanager
def rewriting(memory: GuestMemory, address: int, *contents: bytes) -> Iterator[None]:
    """`contents`, one after the other, at a guest address; they have one length."""
    region = memory.find(address)
    offset = region.layout.offset + address - region.guest_address
    words = [str(region.fd), str(offset), *(content.hex() for content in contents)]
    command = [sys.executable, str(Path(__file__)), *words]
    process = subprocess.Popen(command, pass_fds=[region.fd], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.read(1)  # it has begun
        yield
        assert process.poll() is None, "the other vCPU died"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def rewrite(memory: mmap.mmap, offset: int, contents: Sequence[bytes]) -> None:
    size = len(contents[0])
    while True:
        for content in contents:
            memory[offset : offset + size] = content


if __name__ == "__main__":
    fd, offset, *contents = sys.argv[1:]
    memory = mmap.mmap(int(fd), os.fstat(int(fd)).st_size)
    new = [bytes.fromhex(content) for content in contents]
    memory[int(offset) : int(offset) + len(new[0])] = new[0]  # what was there before is gone when the attack begins
    os.write(1, b".")
    rewrite(memory, int(offset), new)
