"""A volume as a target of the engine: extents of another target, which several volumes share.

All volumes of one target belong to one reactor, which owns it. Nothing outside the extents can be read or changed.
"""

from collections.abc import Iterable

from virtflash.engine.reactor import EmulatedStorage

class VolumeTarget:
    """`pieces`: first sector below, and sectors, of each extent, in the volume's order (`window.pieces`). `below` lives
    as long as this does. That the pieces lie in it, and in no other volume, is for who made them: `Pool` checks that.
    `owner`: whose the volume is, by the numbers of `FlashTarget.set_owners`; 0: nobody's.

    ValueError: no extent, or one that is empty; no owner has this number; `below` holds no target.
    """

    def __init__(self, below: EmulatedStorage, pieces: Iterable[tuple[int, int]], owner: int = 0) -> None: ...
    capsule: object  # a PyCapsule called "virtflash.backing.Target"
    below: EmulatedStorage
    sectors: int
    def extend(self, pieces: Iterable[tuple[int, int]]) -> None:
        """The same volume with more behind it, while it is served. Needs `below.owner`, as `FlashTarget` has it.
        ValueError: it would be smaller."""
