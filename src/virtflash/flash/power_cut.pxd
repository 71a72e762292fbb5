"""What a power cut leaves of the program or erase under way; a process that is killed is one, too.

The operation in flight stands in the image's state with the block's record as it was before, so that every outcome can
be made from whatever the operation has come to. An outcome is a number, `how`, so that a test can go through them all.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy

from virtflash.flash.block_record cimport count_cycle, renew_block
from virtflash.flash.chip cimport (
    FLASH_NOR,
    FLASH_NOWHERE,
    FLASH_POWER_LOST,
    FLASH_PROGRAM,
    FLASH_SLC,
)
from virtflash.flash.device cimport Device, block_pages, compiler_barrier, is_slc, page_bytes, page_data, page_record
from virtflash.flash.image cimport (
    BLOCK_ERASE_CUT,
    BLOCK_NOT_WIPED,
    BLOCK_WEAK,
    PAGE_BARELY,
    PAGE_BLANK,
    PAGE_HEADER_BYTES,
    PAGE_PROGRAMMED,
    PAGE_TORN,
    PAGE_UNSTABLE,
    BlockRecord,
    NorTail,
    PageRecord,
)
from virtflash.flash.page_record cimport is_programmed, seal_page, seal_record
from virtflash.flash.physics cimport draw, draw_uniform
from virtflash.flash.space cimport reserve_page, reserve_records

cdef enum:
    CUT_RANDOM = -1  # `how`: by the chances of the profile
    # Of a program: how % 5. From 5 on, the page that it endangers is lost, too.
    CUT_UNTOUCHED = 0  # not begun
    CUT_TORN = 1
    CUT_UNSTABLE = 2  # reads as asked for or not at all
    CUT_BARELY = 3  # reads as never programmed or not at all
    CUT_COMPLETE = 4
    PROGRAM_OUTCOMES = 5
    # Of an erase: how % 4.
    ERASE_UNTOUCHED = 0
    ERASE_HALF = 1  # each page as before, unreadable or erased
    ERASE_WEAK = 2  # looks erased, and holds nothing
    ERASE_COMPLETE = 3
    ERASE_OUTCOMES = 4


cdef inline void begin_operation(Device *device, uint32_t kind, uint32_t block, uint32_t page) noexcept nogil:
    """`page`: of a program; of an erase, its flags."""
    device.operations += 1
    device.state.before = device.blocks[block]
    device.state.flight_block = block
    device.state.flight_page = page
    compiler_barrier()
    device.state.in_flight = kind
    compiler_barrier()


cdef inline NorTail *nor_tail(PageRecord *page) noexcept nogil:
    return <NorTail *>(<char *>page + PAGE_HEADER_BYTES)


cdef inline void tear_nor(Device *device, char *data, uint32_t size) noexcept nogil:
    """Of the bits that were to be cleared, some are. NOR has nobody to notice it."""
    cdef const uint8_t *before = device.state.page_before
    cdef uint32_t i
    for i in range(size):
        if before[i] != <uint8_t>data[i]:
            data[i] = <char>(before[i] & (<uint8_t>data[i] | <uint8_t>draw(&device.state.random)))


cdef inline bint mark_unstable(Device *device, PageRecord *page, const char *data, uint32_t size) noexcept nogil:
    """The stretch of bytes that the cut program changed. False: it changed none."""
    cdef const uint8_t *before = device.state.page_before
    cdef uint32_t begin = 0
    cdef uint32_t end = size
    while begin < size and before[begin] == <uint8_t>data[begin]:
        begin += 1
    while end > begin and before[end - 1] == <uint8_t>data[end - 1]:
        end -= 1
    nor_tail(page).unstable_offset = begin
    nor_tail(page).unstable_length = end - begin
    return end > begin


cdef inline void cut_nor_program(Device *device, PageRecord *page, uint32_t outcome) noexcept nogil:
    cdef uint32_t block = device.state.flight_block
    cdef uint32_t size = device.geometry.page_bytes
    cdef char *data = page_data(device, block, device.state.flight_page)
    device.blocks[block].next_page = block_pages(device, &device.blocks[block])
    if outcome == CUT_UNTOUCHED or not is_programmed(&device.blocks[block], page):
        memcpy(data, device.state.page_before, size)
        outcome = CUT_UNTOUCHED
    elif outcome == CUT_TORN or outcome == CUT_BARELY:
        tear_nor(device, data, size)
    if not is_programmed(&device.blocks[block], page):
        page.generation = device.blocks[block].generation
        page.state = PAGE_PROGRAMMED
    if outcome == CUT_UNSTABLE or outcome == CUT_BARELY:
        if mark_unstable(device, page, data, size):
            page.state = PAGE_UNSTABLE
    seal_page(device, page, data, size)


cdef inline void cut_nand_program(Device *device, PageRecord *page, uint32_t outcome) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[device.state.flight_block]
    cdef bint whole = page.state == PAGE_PROGRAMMED and page.generation == block.generation
    if outcome == CUT_UNTOUCHED:
        block[0] = device.state.before
        block.flags |= BLOCK_NOT_WIPED
        page.state = PAGE_BLANK
        seal_record(device, page)
        return
    page.generation = block.generation
    block.next_page = max(block.next_page, device.state.flight_page + 1)
    if outcome == CUT_BARELY:
        page.state = PAGE_BARELY
    elif outcome == CUT_TORN or not whole:
        page.state = PAGE_TORN
    elif outcome == CUT_UNSTABLE:
        page.state = PAGE_UNSTABLE
    seal_page(
        device, page, page_data(device, device.state.flight_block, device.state.flight_page), page_bytes(device, block)
    )


cdef inline void lose_endangered(Device *device) noexcept nogil:
    """The page that shares its cells with the one that was being programmed."""
    cdef BlockRecord *block = &device.blocks[device.state.flight_block]
    cdef PageRecord *page
    cdef uint32_t endangered
    if device.geometry.endangers == NULL or is_slc(block):
        return
    endangered = device.geometry.endangers[device.state.flight_page]
    if endangered == FLASH_NOWHERE:
        return
    page = page_record(device, device.state.flight_block, endangered)
    if not is_programmed(block, page) or page.state == PAGE_TORN:
        return
    if reserve_page(device, device.state.flight_block, endangered):
        page.state = PAGE_UNSTABLE if draw(&device.state.random) & 3 == 0 else PAGE_TORN
        seal_record(device, page)


cdef inline uint32_t random_program_outcome(Device *device) noexcept nogil:
    cdef double chance = draw_uniform(&device.state.random)
    if chance < device.chances.program_untouched:
        return CUT_UNTOUCHED
    chance -= device.chances.program_untouched
    if chance < device.chances.program_torn:
        return CUT_TORN
    chance -= device.chances.program_torn
    if chance < device.chances.program_unstable:
        return CUT_UNSTABLE if chance * 2 < device.chances.program_unstable else CUT_BARELY
    return CUT_COMPLETE


cdef inline void cut_program(Device *device, int32_t how) noexcept nogil:
    cdef PageRecord *page = page_record(device, device.state.flight_block, device.state.flight_page)
    cdef uint32_t outcome
    cdef bint endangered_lost
    if how < 0:
        outcome = random_program_outcome(device)
        endangered_lost = draw_uniform(&device.state.random) < device.chances.pair_lost
    else:
        outcome = <uint32_t>how % PROGRAM_OUTCOMES
        endangered_lost = (how // PROGRAM_OUTCOMES) & 1
    if device.geometry.kind == FLASH_NOR:
        cut_nor_program(device, page, outcome)
        return
    cut_nand_program(device, page, outcome)
    if endangered_lost:
        lose_endangered(device)


cdef inline void scramble(Device *device, char *data, uint32_t size) noexcept nogil:
    cdef uint32_t i
    for i in range(size):
        data[i] = <char>(<uint8_t>data[i] ^ <uint8_t>(draw(&device.state.random) & draw(&device.state.random)))


cdef inline void erase_half_page(Device *device, uint32_t number, uint32_t page_number) noexcept nogil:
    cdef PageRecord *page = page_record(device, number, page_number)
    cdef uint32_t fate = (draw(&device.state.random) >> 32) % 3
    cdef char *data
    if fate == 0 or not is_programmed(&device.blocks[number], page):
        return
    if fate == 1:
        page.state = PAGE_BLANK
        seal_record(device, page)
    elif device.geometry.kind == FLASH_NOR:
        data = page_data(device, number, page_number)
        scramble(device, data, device.geometry.page_bytes)
        seal_page(device, page, data, device.geometry.page_bytes)
    else:
        page.state = PAGE_TORN
        seal_record(device, page)


cdef inline bint reserve_half(Device *device, uint32_t number) noexcept nogil:
    """Room to write what a half erase leaves; where there is none, the erase had not begun."""
    cdef BlockRecord *block = &device.blocks[number]
    if block.next_page == 0:
        return True
    if device.geometry.kind == FLASH_NOR and not (
        reserve_page(device, number, 0) and reserve_page(device, number, block.next_page - 1)
    ):
        return False
    return reserve_records(device, number)


cdef inline void erase_half(Device *device, uint32_t number, bint slc) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[number]
    cdef uint32_t page
    for page in range(block.next_page):
        erase_half_page(device, number, page)
    block.flags |= BLOCK_ERASE_CUT | BLOCK_NOT_WIPED
    count_cycle(block, slc)


cdef inline uint32_t random_erase_outcome(Device *device) noexcept nogil:
    cdef double chance = draw_uniform(&device.state.random)
    if chance < device.chances.erase_untouched:
        return ERASE_UNTOUCHED
    chance -= device.chances.erase_untouched
    if chance < device.chances.erase_half:
        return ERASE_HALF
    return ERASE_WEAK if chance - device.chances.erase_half < device.chances.erase_weak else ERASE_COMPLETE


cdef inline void cut_erase(Device *device, int32_t how) noexcept nogil:
    cdef uint32_t number = device.state.flight_block
    cdef bint slc = device.state.flight_page & FLASH_SLC
    cdef uint32_t outcome = random_erase_outcome(device) if how < 0 else <uint32_t>how % ERASE_OUTCOMES
    device.blocks[number] = device.state.before
    device.estimates[number].rate = -1
    if outcome == ERASE_HALF and reserve_half(device, number):
        erase_half(device, number, slc)
    elif outcome > ERASE_HALF:
        renew_block(device, number, slc)
        if outcome == ERASE_WEAK:
            device.blocks[number].flags |= BLOCK_WEAK


cdef inline void cut_operation(Device *device, int32_t how) noexcept nogil:
    """Let power go while the operation in flight was under way."""
    if device.state.in_flight == FLASH_PROGRAM:
        cut_program(device, how)
    else:
        cut_erase(device, how)
    device.state.power_cuts += 1
    compiler_barrier()
    device.state.in_flight = 0


cdef inline int end_operation(Device *device, int status) noexcept nogil:
    """`status` of the operation in flight, unless this is where power goes."""
    if device.cut_after:
        device.cut_after -= 1
        if device.cut_after == 0:
            cut_operation(device, device.cut_how)
            device.lost_power = True
            return FLASH_POWER_LOST
    compiler_barrier()
    device.state.in_flight = 0
    return status
