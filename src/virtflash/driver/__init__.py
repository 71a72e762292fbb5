"""The other side of the wire: a vhost-user front end and virtio-blk driver that can build any chain, legal or not.

It shares with the server only what the standard says: `virtio/` and the message layouts of `vhost_user/messages.py`.
Nothing here waits without a deadline.
"""
