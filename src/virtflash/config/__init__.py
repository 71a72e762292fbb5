"""What an operator writes down: flashes, volumes and rules in one TOML file, typed, with every mistake told at once."""

from virtflash.config.configuration import Configuration, Flash, Server, Volume
from virtflash.config.reading import ConfigurationError, read_configuration

__all__ = ["Configuration", "ConfigurationError", "Flash", "Server", "Volume", "read_configuration"]
