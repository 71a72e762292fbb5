"""The state of a page as a read finds it."""

from libc.stdint cimport uint8_t, uint32_t

from virtflash.flash.device cimport Device
from virtflash.flash.image cimport PAGE_TORN, PageRecord
from virtflash.flash.page_record cimport is_whole, settle_page
from virtflash.flash.space cimport reserve


cdef inline uint8_t state_of(Device *device, uint32_t block, uint32_t number, PageRecord *page) noexcept nogil:
    """PAGE_* of a page whose record counts. After a crash of the host its checksums have a say, at the first look.

    What is found comes out the same however often it is forgotten: the file's content alone decides. NOR has no
    checksums that would tell: its bytes are what the disk has of them, those of an earlier program in the page too.
    """
    cdef bint whole
    if page.epoch == device.state.epoch:
        return page.state
    whole = is_whole(device, block, number, page)
    if reserve(device, page, device.record_bytes):
        settle_page(device, page, whole)
    return page.state if whole else PAGE_TORN
