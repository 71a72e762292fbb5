"""virtflash: a virtio block server made for flash that several virtual machines share."""

__version__ = "0.1.0"
