"""Bit errors of a read: how many are drawn, by codeword, and what becomes of the data where they are too many."""

from libc.math cimport fabs
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from virtflash.flash.chip cimport FLASH_OK, FLASH_UNCORRECTABLE, FlashOperation
from virtflash.flash.device cimport Device, ErrorEstimate, block_pages, is_slc, wear
from virtflash.flash.image cimport BlockRecord, PageRecord
from virtflash.flash.physics cimport cross_temperature, draw, draw_poisson, raw_bit_error_rate
from virtflash.flash.pieces cimport flip_bit

cdef enum:
    NEAR = 64  # an estimate is good for ages and reads within this part of them
    FEW_ERRORS = 12  # so few are dealt out to codewords one by one; more are drawn for each codeword
    CODEWORDS_DEALT = 64


cdef inline bint is_near(const ErrorEstimate *estimate, double hours, uint64_t reads, uint32_t pages) noexcept nogil:
    if estimate.rate < 0 or fabs(hours - estimate.hours) > estimate.hours / NEAR + 0.01:
        return False
    return reads - estimate.reads <= estimate.reads / NEAR + pages / NEAR


cdef inline double error_rate(Device *device, uint32_t number, const PageRecord *page) noexcept nogil:
    """Of a block's bits that are as old as this page's, with all pages alike."""
    cdef BlockRecord *block = &device.blocks[number]
    cdef ErrorEstimate *estimate = &device.estimates[number]
    cdef double hours = max(device.state.effective_hours - page.hours, 0)
    cdef uint32_t pages = block_pages(device, block)
    if not is_near(estimate, hours, block.reads, pages):
        estimate.rate = raw_bit_error_rate(
            &device.physics, is_slc(block), wear(device, block), hours, <double>block.reads / pages, block.factor
        )
        estimate.hours = hours
        estimate.reads = block.reads
    return estimate.rate


cdef inline double page_factor(Device *device, uint32_t block, uint32_t number, const PageRecord *page) noexcept nogil:
    cdef double factor = 1
    if device.page_factors != NULL and not is_slc(&device.blocks[block]):
        factor = device.page_factors[number]
    if device.physics.cross_temperature > 1:
        factor *= cross_temperature(&device.physics, page.decicelsius / 10.0, device.state.celsius)
    return factor


cdef inline void spoil_data(Device *device, FlashOperation *operation, uint32_t begin, uint32_t end, uint32_t errors) \
        noexcept nogil:
    """Wrong bits among bytes `begin` to `end` of what was asked for."""
    cdef uint64_t random
    cdef uint32_t _
    if begin >= end:
        return
    for _ in range(errors):
        random = draw(&device.state.random)
        flip_bit(operation, begin + <uint32_t>((random >> 32) % (end - begin)), random & 7)


cdef inline void count_errors(
    Device *device, FlashOperation *operation, uint32_t codeword, uint32_t errors
) noexcept nogil:
    """Of codeword `codeword` of the page."""
    cdef uint32_t size = device.physics.codeword_bytes
    cdef uint32_t limit = device.physics.correctable_bits
    cdef uint32_t begin
    cdef uint32_t end
    operation.worst_share = max(operation.worst_share, errors * 100 // max(limit, 1))
    if errors <= limit:
        operation.corrected_bits += errors
        return
    begin = max(codeword * size, operation.offset) - operation.offset
    end = min((codeword + 1) * size, operation.offset + operation.length)
    end = end - operation.offset if end > operation.offset else 0
    spoil_data(device, operation, begin, end, errors)
    operation.status = FLASH_UNCORRECTABLE


cdef inline void deal_errors(
    Device *device, FlashOperation *operation, uint32_t first, uint32_t codewords, uint32_t errors
) noexcept nogil:
    cdef uint32_t dealt[CODEWORDS_DEALT]
    cdef uint32_t i
    cdef uint32_t _
    memset(dealt, 0, codewords * sizeof(uint32_t))
    for _ in range(errors):
        dealt[(draw(&device.state.random) >> 32) % codewords] += 1
    for i in range(codewords):
        if dealt[i]:
            count_errors(device, operation, first + i, dealt[i])


cdef inline int sample_errors(Device *device, FlashOperation *operation, const PageRecord *page) noexcept nogil:
    """Status, corrected bits and worst share of a read whose data is in place already."""
    cdef uint32_t first
    cdef uint32_t codewords
    cdef uint32_t i
    cdef double mean
    operation.status = FLASH_OK
    if device.physics.codeword_bytes == 0:
        return FLASH_OK
    mean = error_rate(device, operation.block, page) * page_factor(device, operation.block, operation.page, page)
    mean *= device.physics.raw_codeword_bits
    first = operation.offset // device.physics.codeword_bytes
    codewords = (operation.offset + max(operation.length, 1) - 1) // device.physics.codeword_bytes - first + 1
    if mean * codewords <= FEW_ERRORS and codewords <= CODEWORDS_DEALT:
        i = draw_poisson(mean * codewords, &device.state.random)
        if i:
            deal_errors(device, operation, first, codewords, i)
    else:
        for i in range(codewords):
            count_errors(device, operation, first + i, draw_poisson(mean, &device.state.random))
    device.state.corrected_bits += operation.corrected_bits
    return operation.status


cdef inline int garble(Device *device, FlashOperation *operation, const PageRecord *page) noexcept nogil:
    """Of a torn page: the same wrong bits every time. The data is in place."""
    cdef uint64_t random = page.generation * <uint64_t>0x9e3779b97f4a7c15 + operation.page
    cdef uint64_t bits
    cdef uint32_t _
    for _ in range(operation.length // 16 + 1 if operation.length else 0):
        bits = draw(&random)
        flip_bit(operation, <uint32_t>((bits >> 32) % operation.length), bits & 7)
    if operation.spare != NULL and device.geometry.spare_bytes:
        for _ in range(4):
            bits = draw(&random)
            operation.spare[(bits >> 32) % device.geometry.spare_bytes] ^= <char>(1 << (bits & 7))
    return FLASH_UNCORRECTABLE
