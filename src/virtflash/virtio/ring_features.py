"""Feature bits that belong to no device type: rings and transport (virtio 1.4 §6), and vhost-user's own."""

from enum import IntFlag


class RingFeature(IntFlag):
    """Device-independent feature bits, as masks of the 64-bit feature word."""

    NOTIFY_ON_EMPTY = 1 << 24  # legacy (§6.3)
    ANY_LAYOUT = 1 << 27  # legacy (§6.3)
    INDIRECT_DESC = 1 << 28  # §2.7.5.3
    EVENT_IDX = 1 << 29  # §2.7.7, §2.7.10
    VHOST_USER_PROTOCOL = 1 << 30  # vhost-user: protocol features may be negotiated; no driver ever sees it
    VERSION_1 = 1 << 32  # §6.1
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34  # §2.8
    IN_ORDER = 1 << 35
    ORDER_PLATFORM = 1 << 36
    SR_IOV = 1 << 37
    NOTIFICATION_DATA = 1 << 38
    NOTIF_CONFIG_DATA = 1 << 39
    RING_RESET = 1 << 40
    ADMIN_VQ = 1 << 41
    SUSPEND = 1 << 43
