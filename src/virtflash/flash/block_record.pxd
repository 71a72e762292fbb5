"""The record of a block: what an erase makes of it, and whether the next operation on it fails."""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.flash.device cimport Device, is_slc, wear
from virtflash.flash.image cimport (
    BLOCK_BROKEN,
    BLOCK_ERASE_CUT,
    BLOCK_NOT_WIPED,
    BLOCK_SLC,
    BLOCK_WEAK,
    BlockRecord,
)
from virtflash.flash.physics cimport draw_failure


cdef inline void count_cycle(BlockRecord *block, bint slc) noexcept nogil:
    if slc:
        block.slc_cycles += 1
    else:
        block.cycles += 1


cdef inline void renew_block(Device *device, uint32_t number, bint slc) noexcept nogil:
    """Erased: no page record counts any more. What the pages held stays in the file until it is wiped."""
    cdef BlockRecord *block = &device.blocks[number]
    if block.next_page:
        block.flags |= BLOCK_NOT_WIPED
    # Records that a crash of the host brought back may be of any generation of their time: begin anew after each.
    block.generation = (<uint64_t>device.state.epoch << 32) | <uint32_t>(block.generation + 1)
    block.next_page = 0
    block.reads = 0
    block.flags &= ~(BLOCK_SLC | BLOCK_ERASE_CUT | BLOCK_WEAK)
    if slc:
        block.flags |= BLOCK_SLC
    count_cycle(block, slc)
    block.erased_hours = device.state.effective_hours
    device.estimates[number].rate = -1


cdef inline bint comes_up(uint32_t *countdown) noexcept nogil:
    """Of a failure that a test has ordered."""
    if countdown[0] == 0:
        return False
    countdown[0] -= 1
    return countdown[0] == 0


cdef inline bint break_block(BlockRecord *block, uint64_t *failed) noexcept nogil:
    block.flags |= BLOCK_BROKEN
    block.failures += 1
    failed[0] += 1
    return True


cdef inline bint program_fails(Device *device, BlockRecord *block) noexcept nogil:
    cdef bint ordered = comes_up(&device.fail_programs_after)
    if not ordered and not block.flags & BLOCK_BROKEN and not draw_failure(
        &device.physics, is_slc(block), False, wear(device, block), &device.state.random
    ):
        return False
    return break_block(block, &device.state.failed_programs)


cdef inline bint erase_fails(Device *device, BlockRecord *block) noexcept nogil:
    cdef bint ordered = comes_up(&device.fail_erases_after)
    if not ordered and not block.flags & BLOCK_BROKEN and not draw_failure(
        &device.physics, is_slc(block), True, wear(device, block), &device.state.random
    ):
        return False
    return break_block(block, &device.state.failed_erases)
