"""The device face of an emulated eMMC: its register, its commands, and what each of them promises."""

from virtflash.backing.emmc.device import Emmc, EmmcError, Erase, Partition, Status
from virtflash.backing.emmc.ext_csd import Access, SwitchError

__all__ = ["Access", "Emmc", "EmmcError", "Erase", "Partition", "Status", "SwitchError"]
