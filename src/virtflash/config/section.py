"""What every section of a configuration is."""

from msgspec import Struct


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a configuration. Unknown keys are refused."""
