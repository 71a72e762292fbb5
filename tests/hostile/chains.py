"""What tests of chains need: pieces of requests in guest memory, and how a chain must end."""

from attacked_server import Attack

from virtflash.driver.blk import BlkDriver
from virtflash.driver.split_queue import Buffer
from virtflash.virtio.blk import REQUEST_HEADER, RequestType, Status
from virtflash.virtio.split_ring import DescriptorFlag

SECTOR = 512
NEXT, WRITE, INDIRECT = DescriptorFlag.NEXT, DescriptorFlag.WRITE, DescriptorFlag.INDIRECT


def header(driver: BlkDriver, kind: int = RequestType.IN, sector: int = 0) -> Buffer:
    return Buffer(driver.memory.place(REQUEST_HEADER.pack(kind, 0, sector)), REQUEST_HEADER.size)


def room(driver: BlkDriver, length: int) -> Buffer:
    """For the device to write."""
    return Buffer(driver.memory.place(b"\xff" * length), length, WRITE)


def source(driver: BlkDriver, data: bytes) -> Buffer:
    return Buffer(driver.memory.place(data), len(data))


def answered(attack: Attack, driver: BlkDriver, buffers: list[Buffer], words: str, *, indirect: bool = False) -> None:
    """The request must end with IOERR in the last writable byte, the log say why, and the queue go on."""
    driver.complete(driver.submit_chain(buffers, indirect=indirect))
    last = [buffer for buffer in buffers if buffer.flags & WRITE][-1]
    assert driver.memory.read(last.address + last.length - 1, 1) == bytes([Status.IOERR])
    attack.may_say(f"attacked: ring 0: 1 requests refused, the last one {words}$")
    driver.read(0, SECTOR).check()


def stopped(attack: Attack, driver: BlkDriver, words: str) -> None:
    """The queue must have stopped, with one line that says why; the device signals it."""
    driver.queues[0].wait_error()
    attack.says(f"attacked: ring 0 stopped: {words}$")
