"""The physics of flash cells: how raw bit errors grow, how heat speeds up time, how programs and erases come to fail.

Formulas, units and sources: docs/flash.md. A zeroed `Physics` is perfect flash, without errors and without ECC. What is
random is drawn from a state that the caller keeps: the same state gives the same device.
"""

from libc.math cimport exp, fabs, log, log1p, pow, sqrt
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    LAW_POWER = 0
    LAW_EXPONENTIAL = 1

# Raw bit error rate as a function of cycles, time and reads, for one way to use the cells.
#   power:       floor + wear cycles^k + retention cycles^m days^n + disturb cycles^p reads^q + early ln(1 + hours/t0)
#   exponential: floor exp(wear cycles + disturb reads) (1 + early ln(1 + hours/t0))
cdef struct ErrorLaw:
    int law
    double floor
    double wear
    double wear_power  # k
    double retention
    double retention_cycles_power  # m
    double retention_days_power  # n
    double fit_days  # the power of time holds so long, then time counts by its logarithm; 0: it holds for ever
    double disturb
    double disturb_cycles_power  # p
    double disturb_reads_power  # q
    double early
    double early_hours  # t0

cdef struct Physics:
    ErrorLaw main
    ErrorLaw slc
    double activation_ev  # electronvolt
    double reference_celsius  # where an hour of retention is an hour
    double spread  # standard deviation of the logarithm of a block's quality factor
    double lower_factor  # error rate of a page that another endangers, over the average; 0: not told apart
    double upper_factor  # of a page that endangers another
    double cross_temperature  # error rate of data read 125 kelvin away from where it was programmed, over that at none
    double rated_cycles
    double slc_rated_cycles
    double program_failures  # probability for one program of a fresh block
    double erase_failures
    double slc_program_failures
    double slc_erase_failures
    double failure_growth  # how often more at rated cycles than fresh; grows exponentially on the way and beyond
    uint32_t codeword_bytes  # of data in a codeword; 0: no ECC
    uint32_t correctable_bits  # in one codeword
    uint32_t raw_codeword_bits  # of data and parity

cdef enum:
    DAY_HOURS = 24
    SMALL_MEAN = 16  # up to here a Poisson distribution is searched, above it is bent from a normal one


cdef inline double acceleration(const Physics *p, double celsius) noexcept nogil:
    """Hours at the reference temperature that an hour at `celsius` is worth (Arrhenius)."""
    cdef double boltzmann = 8.617e-5  # electronvolt per kelvin
    cdef double kelvin = celsius + 273.15
    if p.activation_ev == 0:
        return 1
    if kelvin <= 1:
        return 0
    return exp(p.activation_ev / boltzmann * (1 / (p.reference_celsius + 273.15) - 1 / kelvin))


cdef inline double cross_temperature(const Physics *p, double programmed_celsius, double read_celsius) noexcept nogil:
    """Factor on the error rate of data that is read at another temperature than it was programmed at; at least 1."""
    if p.cross_temperature <= 1:
        return 1
    return 1 + (p.cross_temperature - 1) * min(fabs(read_celsius - programmed_celsius) / 125, 1)


cdef inline double aged(const ErrorLaw *law, double days) noexcept nogil:
    """`days^n` as far as it was fitted, then on from there with the same slope over the logarithm of time."""
    if law.fit_days == 0 or days <= law.fit_days:
        return pow(days, law.retention_days_power)
    return pow(law.fit_days, law.retention_days_power) * (1 + law.retention_days_power * log(days / law.fit_days))


cdef inline double early_loss(const ErrorLaw *law, double hours) noexcept nogil:
    return law.early * log1p(hours / law.early_hours) if law.early > 0 else 0


cdef inline double power_law(const ErrorLaw *law, double cycles, double hours, double reads) noexcept nogil:
    # Cells that were never cycled forget and are disturbed as those of the first cycle, instead of not at all.
    cdef double used = max(cycles, 1)
    cdef double rate = law.floor + early_loss(law, hours)
    if law.wear > 0:
        rate += law.wear * pow(cycles, law.wear_power)
    if law.retention > 0 and hours > 0:
        rate += law.retention * pow(used, law.retention_cycles_power) * aged(law, hours / DAY_HOURS)
    if law.disturb > 0 and reads > 0:
        rate += law.disturb * pow(used, law.disturb_cycles_power) * pow(reads, law.disturb_reads_power)
    return rate


cdef inline double exponential_law(const ErrorLaw *law, double cycles, double hours, double reads) noexcept nogil:
    # Far beyond any probability, and short of infinity, which times 0 is no number.
    cdef double grown = exp(min(law.wear * cycles + law.disturb * reads, 100))
    return law.floor * grown * (1 + early_loss(law, hours))


cdef inline double raw_bit_error_rate(
    const Physics *p, bint slc, double cycles, double hours, double reads_per_page, double factor
) noexcept nogil:
    """Probability that a bit reads wrong, 0 to 0.5.

    cycles: erases of the block so far. hours: since the program, at the reference temperature. reads_per_page: reads of
    the block since its erase, divided by its pages. factor: the block's quality, times that of the page's type and of
    the temperature.
    """
    cdef const ErrorLaw *law = &p.slc if slc else &p.main
    cdef double rate
    if law.law == LAW_EXPONENTIAL:
        rate = exponential_law(law, cycles, hours, reads_per_page)
    else:
        rate = power_law(law, cycles, hours, reads_per_page)
    return min(rate * factor, 0.5)


cdef inline uint64_t draw(uint64_t *random) noexcept nogil:
    """64 random bits (splitmix64): every state is a good one, 0 too."""
    cdef uint64_t mixed
    random[0] += <uint64_t>0x9e3779b97f4a7c15
    mixed = random[0]
    mixed = (mixed ^ (mixed >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    mixed = (mixed ^ (mixed >> 27)) * <uint64_t>0x94d049bb133111eb
    return mixed ^ (mixed >> 31)


cdef inline double draw_uniform(uint64_t *random) noexcept nogil:
    """At least 0, below 1."""
    return <double>(draw(random) >> 11) * (1.0 / 9007199254740992.0)


cdef inline double normal_tail(double probability) noexcept nogil:
    """The normal quantile of a probability below 0.02425."""
    cdef double q = sqrt(-2 * log(probability))
    return (
        ((((-7.784894002430293e-03 * q - 3.223964580411365e-01) * q - 2.400758277161838) * q - 2.549732539343734) * q
         + 4.374664141464968) * q + 2.938163982698783
    ) / (
        (((7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996) * q + 3.754408661907416) * q + 1
    )


cdef inline double normal_middle(double offset) noexcept nogil:
    """The normal quantile of 0.5 + `offset`."""
    cdef double r = offset * offset
    return offset * (
        ((((-3.969683028665376e+01 * r + 2.209460984245205e+02) * r - 2.759285104469687e+02) * r
          + 1.383577518672690e+02) * r - 3.066479806614716e+01) * r + 2.506628277459239
    ) / (
        ((((-5.447609879822406e+01 * r + 1.615858368580409e+02) * r - 1.556989798598866e+02) * r
          + 6.680131188771972e+01) * r - 1.328068155288572e+01) * r + 1
    )


cdef inline double draw_normal(uint64_t *random) noexcept nogil:
    """Mean 0, deviation 1: the quantile (P. Acklam's approximation, relative error 1e-9) of one uniform draw."""
    cdef double u = (<double>(draw(random) >> 11) + 0.5) * (1.0 / 9007199254740992.0)
    if u < 0.02425:
        return normal_tail(u)
    if u > 1 - 0.02425:
        return -normal_tail(1 - u)
    return normal_middle(u - 0.5)


cdef inline double draw_factor(const Physics *p, uint64_t *random) noexcept nogil:
    """A block's quality: lognormal around a mean of 1. No spread takes no draw."""
    if p.spread == 0:
        return 1
    return exp(p.spread * draw_normal(random) - p.spread * p.spread / 2)


cdef inline uint32_t search_poisson(double mean, double uniform) noexcept nogil:
    """The count whose cumulated probability first passes `uniform`."""
    cdef double term = exp(-mean)
    cdef double sum = term
    cdef uint32_t count = 0
    while sum <= uniform and term > 0:  # a term of 0: the sum, rounded, never gets there
        count += 1
        term *= mean / count
        sum += term
    return count


cdef inline uint32_t bend_poisson(double mean, double z) noexcept nogil:
    """The count at a normal quantile (Cornish and Fisher's expansion, to the third term)."""
    cdef double root = sqrt(mean)
    cdef double count = mean + root * z + (z * z - 1) / 6 + (z - z * z * z) / (72 * root) + 0.5
    return <uint32_t>count if count > 0 else 0


cdef inline uint32_t draw_poisson(double mean, uint64_t *random) noexcept nogil:
    """How many errors there are where `mean` are expected: one draw, or none where there can be no error."""
    if mean <= 0:
        return 0
    if mean <= SMALL_MEAN:
        return search_poisson(mean, draw_uniform(random))
    return bend_poisson(mean, draw_normal(random))


cdef inline double failure_probability(const Physics *p, bint slc, bint erase, double cycles) noexcept nogil:
    """That a program or an erase ends with a failure status, in a block of so many cycles."""
    cdef double fresh
    cdef double rated = p.slc_rated_cycles if slc else p.rated_cycles
    if slc:
        fresh = p.slc_erase_failures if erase else p.slc_program_failures
    else:
        fresh = p.erase_failures if erase else p.program_failures
    if fresh <= 0 or rated <= 0 or p.failure_growth <= 0:
        return fresh
    return min(fresh * exp(log(p.failure_growth) * cycles / rated), 1)


cdef inline bint draw_failure(const Physics *p, bint slc, bint erase, double cycles, uint64_t *random) noexcept nogil:
    """Whether this program or erase fails. Flash that cannot fail takes no draw."""
    cdef double probability = failure_probability(p, slc, erase, cycles)
    return probability > 0 and draw_uniform(random) < probability
