"""Measuring any vhost-user-blk server: a compiled load loop on a started queue, alone or two servers in turn.

It stands on `driver/` and shares with the server only atomics; nothing of the server's own counting is believed.
"""
