"""What a volume's sectors live on. Nothing here knows virtio: a backing says what it can, in bytes and sectors."""

from virtflash.backing.backing import Backing, BackingError
from virtflash.backing.emulated_flash import create_flash, open_flash
from virtflash.backing.null import null_backing
from virtflash.backing.raw import open_raw

__all__ = ["Backing", "BackingError", "create_flash", "null_backing", "open_flash", "open_raw"]
