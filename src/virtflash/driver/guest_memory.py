"""Guest memory as a virtual machine monitor has it: files, mapped here and shared with the back end by descriptor."""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from virtflash.driver.front_end import FrontEnd
from virtflash.vhost_user.messages import MemoryRegion

PAGE_BYTES = 4096
# Far from any guest address, so that a back end which mistakes one kind of address for the other is found out.
USER_ADDRESS_BASE = 0x7000_0000_0000


@dataclass(frozen=True)
class RegionSpec:
    """A region to be made, in bytes. `user_address` None: one is chosen, never equal to the guest's.

    `offset`: where it lies in its file. `path`: a file that is made or reused; None: an anonymous one (memfd), made
    with `memfd_flags`, such as os.MFD_HUGETLB.
    """

    guest_address: int
    size: int
    user_address: int | None = None
    offset: int = 0
    path: str | os.PathLike[str] | None = None
    memfd_flags: int = 0


class Region:
    """A file of guest memory, mapped. `memory` is a writable view of the region's bytes."""

    def __init__(self, spec: RegionSpec) -> None:
        user_address = USER_ADDRESS_BASE + spec.guest_address if spec.user_address is None else spec.user_address
        self.layout = MemoryRegion(spec.guest_address, spec.size, user_address, spec.offset)
        self.fd = self._open(spec)
        try:
            os.ftruncate(self.fd, spec.offset + spec.size)
            # From the start of the file: a mapping may only begin at a page, a region anywhere.
            mapped = mmap.mmap(self.fd, spec.offset + spec.size)
        except BaseException:
            os.close(self.fd)
            raise
        self.memory = memoryview(mapped)[spec.offset :]
        self.present = spec.size  # bytes that are still there (see truncate)

    @staticmethod
    def _open(spec: RegionSpec) -> int:
        if spec.path is None:
            return os.memfd_create("guest memory", os.MFD_CLOEXEC | spec.memfd_flags)
        return os.open(spec.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def guest_address(self) -> int:
        return self.layout.guest_address

    @property
    def size(self) -> int:
        return self.layout.size

    def truncate(self, size: int) -> None:
        """Shorten the file to `size` bytes of the region, unannounced. Here, what is gone is not touched any more."""
        os.ftruncate(self.fd, self.layout.offset + size)
        self.present = size

    def close(self) -> None:
        """The memory itself stays mapped for as long as anybody holds a view of it."""
        os.close(self.fd)


class GuestMemory:
    """Regions of memory by guest address (bytes), and a simple allocator over each of them.

    ValueError of every access: an address that is not in any region, or no longer.
    """

    def __init__(self, *specs: RegionSpec | tuple[int, int]) -> None:
        self.regions: list[Region] = []
        self._next: list[int] = []
        self._free: dict[tuple[int, int], list[int]] = {}
        self._allocated: dict[int, tuple[int, int]] = {}
        try:
            for spec in specs:
                self.add(spec)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, spec: RegionSpec | tuple[int, int]) -> Region:
        """One more region, not known to any back end yet. A pair is (guest address, size)."""
        region = Region(spec if isinstance(spec, RegionSpec) else RegionSpec(*spec))
        self.regions.append(region)
        self._next.append(0)
        return region

    def close(self) -> None:
        while self.regions:
            self.regions.pop().close()

    # Sharing it

    def layouts(self) -> list[MemoryRegion]:
        return [region.layout for region in self.regions]

    def set_table(self, front_end: FrontEnd) -> None:
        """Share all regions in one SET_MEM_TABLE."""
        front_end.set_memory_table(self.layouts(), [region.fd for region in self.regions])

    def add_regions(self, front_end: FrontEnd) -> None:
        """Share all regions, each in an ADD_MEM_REG."""
        for region in self.regions:
            front_end.add_memory_region(region.layout, region.fd)

    # Addresses

    def find(self, address: int) -> Region:
        for region in self.regions:
            if 0 <= address - region.guest_address < region.size:
                return region
        raise ValueError(f"guest address {address:#x} is in no region")

    def user_address(self, address: int) -> int:
        """The front-end address of a guest address."""
        layout = self.find(address).layout
        return layout.user_address + address - layout.guest_address

    def pieces(self, address: int, length: int) -> Iterator[memoryview]:
        """Views of `length` bytes from `address`, one for each region that they lie in."""
        while length:
            region = self.find(address)
            start = address - region.guest_address
            piece = min(length, region.size - start)
            if start + piece > region.present:
                raise ValueError(f"guest memory at {address:#x} was truncated")
            yield region.memory[start : start + piece]
            address += piece
            length -= piece

    def read(self, address: int, length: int) -> bytes:
        return b"".join(self.pieces(address, length))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        data = memoryview(data)
        for piece in self.pieces(address, len(data)):
            piece[:] = data[: len(piece)]
            data = data[len(piece) :]

    def halfwords(self, address: int, count: int) -> memoryview:
        """A view of `count` le16 at `address`, each read and written in one go, as the fields of a ring must be."""
        (view,) = self.pieces(address, 2 * count)
        return view.cast("H")

    # Buffers

    def allocate(self, size: int, *, alignment: int = 16, region: int = 0) -> int:
        """The guest address of `size` bytes (at least 1) in that region; MemoryError: there are no more.

        What `free` gave back is reused for the same size, with the content it had.
        """
        size = max(size, 1)
        for address in reversed(self._free.get((region, size), [])):
            if address % alignment == 0:
                self._free[region, size].remove(address)
                break
        else:
            address = self._bump(size, alignment, region)
        self._allocated[address] = (region, size)
        return address

    def _bump(self, size: int, alignment: int, region: int) -> int:
        base = self.regions[region].guest_address
        address = -(-(base + self._next[region]) // alignment) * alignment
        if address + size > base + self.regions[region].size:
            raise MemoryError(f"guest memory region {region} is full: {size} bytes more were asked for")
        self._next[region] = address + size - base
        return address

    def free(self, address: int) -> None:
        """KeyError: it is not allocated."""
        self._free.setdefault(self._allocated.pop(address), []).append(address)

    def place(self, data: bytes, *, alignment: int = 16, region: int = 0) -> int:
        """Allocate, write `data` there, and return the guest address."""
        address = self.allocate(len(data), alignment=alignment, region=region)
        self.write(address, data)
        return address
