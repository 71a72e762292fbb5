"""The laws of `physics.pxd` for Python: for plots, tables and tests.

`physics` is what `Profile.physics()` gives.
"""

from libc.math cimport exp, lgamma, log, log1p
from libc.stdint cimport uint64_t

from virtflash.flash cimport physics as law
from virtflash.flash.physics cimport Physics


def acceleration(physics, double celsius):
    """Hours at the reference temperature that an hour at `celsius` is worth."""
    cdef Physics p = physics
    return law.acceleration(&p, celsius)


def cross_temperature(physics, double programmed_celsius, double read_celsius):
    """Factor on the raw bit error rate of data read at another temperature than it was programmed at."""
    cdef Physics p = physics
    return law.cross_temperature(&p, programmed_celsius, read_celsius)


def raw_bit_error_rate(physics, *, bint slc=False, double cycles=0, double hours=0, double reads_per_page=0,
                       double factor=1):
    """Probability, 0 to 0.5, that a bit reads wrong."""
    cdef Physics p = physics
    return law.raw_bit_error_rate(&p, slc, cycles, hours, reads_per_page, factor)


def failure_probability(physics, *, bint slc=False, bint erase=False, double cycles=0):
    """Probability that a program, or an erase, ends with a failure status."""
    cdef Physics p = physics
    return law.failure_probability(&p, slc, erase, cycles)


def codeword_failure_rate(physics, double rate):
    """Probability that a codeword has more wrong bits than can be corrected, at a raw bit error rate."""
    cdef Physics p = physics
    cdef double bits = p.raw_codeword_bits
    if rate <= 0 or bits == 0:
        return 0.0
    if p.correctable_bits + 1 > bits * rate:
        return binomial_from(bits, p.correctable_bits + 1, rate)
    return 1 - binomial_from(bits, bits - p.correctable_bits, 1 - rate)


cdef double binomial_from(double bits, double least, double rate) noexcept nogil:
    """Probability of at least so many of `bits`, each with probability `rate`; `least` is not below their mean."""
    cdef double ways = lgamma(bits + 1) - lgamma(least + 1) - lgamma(bits - least + 1)
    cdef double term = exp(ways + least * log(rate) + (bits - least) * log1p(-rate))
    cdef double total = 0
    while least <= bits and term > total * 1e-16:
        total += term
        term *= (bits - least) / (least + 1) * rate / (1 - rate)
        least += 1
    return total


cdef class Draws:
    """Random draws from one seed: the same seed gives the same draws."""

    cdef uint64_t random

    def __init__(self, uint64_t seed):
        self.random = seed

    def bits(self):
        """64 of them."""
        return law.draw(&self.random)

    def uniform(self):
        """At least 0, below 1."""
        return law.draw_uniform(&self.random)

    def normal(self):
        """Mean 0, deviation 1."""
        return law.draw_normal(&self.random)

    def poisson(self, double mean):
        """A count of errors where `mean` are expected."""
        return law.draw_poisson(mean, &self.random)

    def factor(self, physics):
        """A block's quality factor."""
        cdef Physics p = physics
        return law.draw_factor(&p, &self.random)

    def failure(self, physics, *, bint slc=False, bint erase=False, double cycles=0):
        """Whether a program, or an erase, fails."""
        cdef Physics p = physics
        return bool(law.draw_failure(&p, slc, erase, cycles, &self.random))
