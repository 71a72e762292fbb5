"""The codes in which an eMMC tells of its health (EXT_CSD bytes 267 to 269), as figures; and which of them say nothing.

A part that does not know, or is older than eMMC 5.0, leaves them at 0.
"""

from virtflash.health.sensors.sensor import SensorError

URGENT = 3  # the highest of PRE_EOL_INFO
EXCEEDED = 11  # the highest of the estimates
PERCENT_OF_CODE = 10

QUANTITIES = ("life_time_a", "life_time_b", "life_time_a_code", "life_time_b_code", "pre_eol")


def figure(where: str, quantity: str, codes: tuple[int, int, int]) -> float:
    """Of PRE_EOL_INFO and the estimates A and B. `where` they were read, for errors. SensorError."""
    if quantity == "pre_eol":
        return float(defined(where, codes[0], URGENT))
    code = defined(where, codes[1 if quantity.startswith("life_time_a") else 2], EXCEEDED)
    return float(code) if quantity.endswith("_code") else life_used(code)


def defined(where: str, code: int, highest: int) -> int:
    if code == 0:
        raise SensorError(f"{where}: it is 0: the part does not tell")
    if code > highest:
        raise SensorError(f"{where}: {code:#04x} has no meaning; the highest is {highest:#04x}")
    return code


def life_used(code: int) -> float:
    """Percent. A code stands for ten of them, and the end of these is what may be used already; 110: beyond 100."""
    return float(PERCENT_OF_CODE * code)
