"""What a volume may take, in the units that people use, made into the allowance that the data plane keeps."""

from dataclasses import dataclass
from typing import Literal

from virtflash.engine.allowance import Allowance

WhenSpent = Literal["throttle", "read-only", "alarm"]
DAY_SECONDS = 86400
BURST_SECONDS = 0.1  # of requests and bytes, unless said otherwise
WEAR_BURST_SECONDS = 3600.0
WEAR_BURST_LEAST = 1 << 20  # bytes: less would make a single request wait for the whole bucket


@dataclass(frozen=True, kw_only=True)
class VolumeLimits:
    """`iops`: requests a second; `bandwidth`, `wear_budget`: bytes a day. None: no limit; of a burst: the usual one."""

    iops: int | None = None
    iops_burst: int | None = None
    bandwidth: int | None = None
    bandwidth_burst: int | None = None
    wear_budget: int | None = None
    wear_burst: int | None = None
    when_spent: WhenSpent = "throttle"

    @property
    def wear_rate(self) -> float:
        """Bytes of flash a second; 0: no budget."""
        return (self.wear_budget or 0) / DAY_SECONDS

    @property
    def burst_requests(self) -> float:
        return self.iops_burst or max((self.iops or 0) * BURST_SECONDS, 1)

    @property
    def bandwidth_rate(self) -> float:
        """Bytes a second; 0: no limit."""
        return (self.bandwidth or 0) / DAY_SECONDS

    @property
    def bandwidth_burst_bytes(self) -> float:
        return self.bandwidth_burst or max(self.bandwidth_rate * BURST_SECONDS, 1)

    @property
    def wear_burst_bytes(self) -> float:
        if self.wear_burst is not None:
            return self.wear_burst
        return max(self.wear_rate * WEAR_BURST_SECONDS, WEAR_BURST_LEAST)

    def apply(self, allowance: Allowance, *, ledger_fd: int = -1, programmed: int = 0) -> None:
        """From now on. `ledger_fd`, `programmed`: as `Allowance.set_rates` has them."""
        allowance.set_rates(
            requests=self.iops or 0,
            requests_burst=self.burst_requests,
            transferred=self.bandwidth_rate,
            transferred_burst=self.bandwidth_burst_bytes,
            wear=self.wear_rate,
            wear_burst=self.wear_burst_bytes,
            when_spent=self.when_spent,
            ledger_fd=ledger_fd,
            programmed=programmed,
        )
