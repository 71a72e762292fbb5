"""How much can be written to a device before its blocks have had their rated cycles."""

import math

from virtflash.report.flash_report import FlashReport

ROUNDS = 1000  # the closer to 1 the ratio, the slower it converges: enough for 1 % of over-provisioning


def bytes_until_worn(report: FlashReport, over_provisioning: float) -> tuple[float, float]:
    """Bytes of the host's: written one after the other, without amplification, and at random over the whole device.

    over_provisioning: percent. Metadata, refresh and what is left empty for a flush are not in it.
    """
    total = float(report.geometry.raw_bytes) * report.wear.rated_cycles
    return total, total / greedy_amplification(1 + over_provisioning / 100)


def greedy_amplification(ratio: float) -> float:
    """Of uniform random writes under greedy collection, for `ratio` = physical over logical space.

    a / (a + W(-a e^-a)), W the principal branch of Lambert's function (Desnoyers, SYSTOR 2012). That is 1 / (1 - v),
    where the share of a block that is still valid when it is collected, v = -W/a, solves v = e^(-a (1 - v)).
    """
    valid = math.exp(-ratio)
    for _ in range(ROUNDS):
        valid = math.exp(-ratio * (1 - valid))
    return 1 / (1 - valid)
