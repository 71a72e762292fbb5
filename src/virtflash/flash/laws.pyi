"""The laws of `physics.pxd` for Python: for plots, tables and tests.

`physics` is what `Profile.physics()` gives.
"""

from collections.abc import Mapping

def acceleration(physics: Mapping[str, object], celsius: float) -> float:
    """Hours at the reference temperature that an hour at `celsius` is worth."""

def cross_temperature(physics: Mapping[str, object], programmed_celsius: float, read_celsius: float) -> float:
    """Factor on the raw bit error rate of data read at another temperature than it was programmed at."""

def raw_bit_error_rate(
    physics: Mapping[str, object],
    *,
    slc: bool = False,
    cycles: float = 0,
    hours: float = 0,
    reads_per_page: float = 0,
    factor: float = 1,
) -> float:
    """Probability, 0 to 0.5, that a bit reads wrong.

    cycles: erases of the block. hours: since the program, at the reference temperature. reads_per_page: reads of the
    block since its erase, over its pages. factor: the block's quality times that of the page's type.
    """

def failure_probability(
    physics: Mapping[str, object], *, slc: bool = False, erase: bool = False, cycles: float = 0
) -> float:
    """Probability that a program, or an erase, ends with a failure status."""

def codeword_failure_rate(physics: Mapping[str, object], rate: float) -> float:
    """Probability that a codeword has more wrong bits than can be corrected (binomial), at a raw bit error rate."""

class Draws:
    """Random draws from one seed: the same seed gives the same draws."""

    def __init__(self, seed: int) -> None: ...
    def bits(self) -> int:
        """64 of them."""

    def uniform(self) -> float:
        """At least 0, below 1."""

    def normal(self) -> float:
        """Mean 0, deviation 1."""

    def poisson(self, mean: float) -> int:
        """A count of errors where `mean` are expected."""

    def factor(self, physics: Mapping[str, object]) -> float:
        """A block's quality factor."""

    def failure(
        self, physics: Mapping[str, object], *, slc: bool = False, erase: bool = False, cycles: float = 0
    ) -> bool:
        """Whether a program, or an erase, fails."""
