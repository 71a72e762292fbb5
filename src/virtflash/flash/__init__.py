"""Raw flash: the contract of a chip (`chip.pxd`), emulated NAND and NOR, their physics, profiles and image format."""
