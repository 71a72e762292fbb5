"""Seeing what a server does: live on a terminal, and as metrics. Everything is made of `virtflash.status`."""
