"""The vhost-user protocol: message layouts, the session state machine, and the socket that carries them.

Source: QEMU's docs/interop/vhost-user.rst, the protocol's specification. Nothing here knows the data plane or the block
device: a session drives a `Backend`.
"""
