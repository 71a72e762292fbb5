"""The virtio standard, written down once: identifiers, feature bits, layouts, statuses.

Nothing here imports anything else of virtflash. Clauses are those of the OASIS specification "Virtual I/O Device
(VIRTIO) Version 1.4"; a constant that only an older ("legacy") driver knows says so.
"""
