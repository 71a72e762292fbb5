"""What can be wrong with volumes; each is one line that says what, where, and what to do."""


class VolumeError(Exception):
    """It cannot be done, or the flash cannot be used."""


class TableError(VolumeError):
    """A copy of the table, or both, cannot be taken for what it says."""


class NoTableError(TableError):
    """There is none, and never was one that anything is left of."""


class DamagedTableError(TableError):
    """It was one, and is not whole."""


class ForeignTableError(TableError):
    """It is whole, and not for this program or this flash."""


class TamperedTableError(TableError):
    """It is whole, and says what this program never writes."""
