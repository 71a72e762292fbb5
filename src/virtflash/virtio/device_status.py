"""The device status field (virtio 1.4 §2.1)."""

from enum import IntFlag


class DeviceStatus(IntFlag):
    """Bits by which a driver tells how far initialization has come."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    SUSPEND = 16
    NEEDS_RESET = 64
    FAILED = 128
