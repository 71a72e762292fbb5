"""The passing of time: hours as they are, and as heat makes them count."""

from libc.math cimport isnan

from virtflash.flash.device cimport Device
from virtflash.flash.physics cimport acceleration


cdef inline void pass_time(Device *device, double seconds, double celsius) noexcept nogil:
    """`celsius`: of the part from now on; not a number: as it was."""
    if not isnan(celsius):
        device.state.celsius = celsius
    device.state.hours += seconds / 3600
    device.state.effective_hours += seconds / 3600 * acceleration(&device.physics, device.state.celsius)
