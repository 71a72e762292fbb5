"""The demonstration: real Linux guests, unmodified, on volumes served by the real program."""
