"""A JSON Schema of the configuration, for editors that complete and check TOML files by one."""

from typing import Any

import msgspec

from virtflash.config.configuration import Configuration
from virtflash.config.quantities import Quantity


def json_schema() -> dict[str, Any]:
    """Draft 2020-12, made of the same types as the files are read with."""
    schema = msgspec.json.schema(Configuration, schema_hook=schema_of_quantity)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "virtflash configuration", **schema}


def schema_of_quantity(kind: type) -> dict[str, Any]:
    if not issubclass(kind, Quantity):
        raise NotImplementedError(f"a field of {kind}")
    text = {"type": "string", "pattern": kind.pattern}
    return {"anyOf": [text, {"type": "integer", "minimum": 0}]} if kind.bare(1) is not None else text
