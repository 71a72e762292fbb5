"""A guest's load while its host changes things: it writes, reads back round the page cache, and compares, without end.

`verified_load.py SECTORS` works in the current directory until its disk has so many sectors; then all of it is compared
once more. Reported, behind the prefix of reports: `loaded 1` when all is under way, and at the end `rounds`: how many
writes were compared. An error of the disk, or data that differs, ends it with status 1. Runs inside the guest.
"""

import fcntl
import hashlib
import mmap
import os
import random
import struct
import sys
import threading
from pathlib import Path

SIZE = Path("/sys/block/vda/size")
PLACES = 64
PAGE = 4096
MOST_PAGES = 16  # of a direct write
FILES = 16
FILE_BYTES = 128 << 10
TRIM_ROUNDS = 16
FITRIM = 0xC0185879  # linux/fs.h


def report(text: str) -> None:
    os.write(1, f"virtflash-guest: {text}\n".encode())


def check(found: bytes, written: bytes, what: str) -> None:
    if found != written:
        first = next(place for place, pair in enumerate(zip(found, written, strict=False)) if pair[0] != pair[1])
        raise ValueError(f"{what}: differs from byte {first} on: {found[first : first + 16].hex()}")


class Direct:
    """A file that is written and read with direct I/O, in pieces of some pages."""

    def __init__(self, name: str) -> None:
        self.fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        self.room = mmap.mmap(-1, MOST_PAGES * PAGE)  # whose address is aligned
        self.held: dict[int, bytes] = {}

    def turn(self) -> None:
        place = random.randrange(PLACES)
        data = os.urandom(random.randrange(1, MOST_PAGES + 1) * PAGE)
        self.room[: len(data)] = data
        with memoryview(self.room) as room:
            assert os.pwritev(self.fd, [room[: len(data)]], place * len(self.room)) == len(data)
        self.held[place] = data
        self.compare(random.choice(list(self.held)))

    def compare(self, place: int) -> None:
        data = self.held[place]
        with memoryview(self.room) as room:
            os.preadv(self.fd, [room[: len(data)]], place * len(self.room))
        check(self.room[: len(data)], data, f"place {place}, directly")

    def compare_all(self) -> None:
        for place in self.held:
            self.compare(place)


class Buffered:
    """Files that are written through the page cache and synced; what is read comes from the disk again."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.held: dict[str, str] = {}

    def turn(self) -> None:
        name = f"{self.prefix}-{random.randrange(FILES)}"
        data = os.urandom(random.randrange(1, FILE_BYTES))
        if random.random() < 0.3:
            Path(name).unlink(missing_ok=True)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        assert os.write(fd, data) == len(data)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        self.held[name] = hashlib.sha256(data).hexdigest()
        self.compare(random.choice(list(self.held)))

    def compare(self, name: str) -> None:
        fd = os.open(name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.sha256(os.read(fd, FILE_BYTES)).hexdigest()
        os.close(fd)
        check(digest.encode(), self.held[name].encode(), f"file {name}")

    def compare_all(self) -> None:
        for name in self.held:
            self.compare(name)


class Load:
    """All of it, each in a thread of its own, until the disk has so many sectors, or something is wrong."""

    def __init__(self, sectors: int) -> None:
        self.sectors = sectors
        self.workers = [Direct("direct"), Buffered("one"), Buffered("two")]
        self.under_way = threading.Barrier(len(self.workers), action=lambda: report("loaded 1"))
        self.rounds = 0
        self.errors: list[str] = []
        self.lock = threading.Lock()

    def run(self) -> None:
        threads = [threading.Thread(target=self.work, args=(worker,)) for worker in self.workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def work(self, worker: Direct | Buffered) -> None:
        try:
            self.turn(worker)
            self.under_way.wait()
            while not self.errors and int(SIZE.read_text()) < self.sectors:
                self.turn(worker)
            worker.compare_all()
        except threading.BrokenBarrierError:
            return  # another one has said why
        except (OSError, ValueError, AssertionError) as error:
            self.errors.append(f"{type(error).__name__}: {error}")
            self.under_way.abort()

    def turn(self, worker: Direct | Buffered) -> None:
        worker.turn()
        with self.lock:
            self.rounds += 1
            if self.rounds % TRIM_ROUNDS == 0:
                trim()


def trim() -> None:
    """What files have left is given back."""
    fd = os.open(".", os.O_RDONLY)
    fcntl.ioctl(fd, FITRIM, struct.pack("=QQQ", 0, (1 << 64) - 1, 0))
    os.close(fd)


def main(sectors: int) -> int:
    load = Load(sectors)
    load.run()
    for error in load.errors:
        report(f"error {error}")
    report(f"rounds {load.rounds}")
    return 1 if load.errors else 0


sys.exit(main(int(sys.argv[1])))
