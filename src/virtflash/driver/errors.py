"""What can go wrong on this side of the wire, each told in one line."""


class FrontEndError(Exception):
    """The other side could not be reached, did not do as agreed, or not in time."""


class DeadlineError(FrontEndError):
    """What was waited for did not happen in time."""


class ClosedError(FrontEndError):
    """The other side closed the connection."""


class RefusedError(FrontEndError):
    """The other side answered that it will not do what it was asked."""


class QueueStoppedError(FrontEndError):
    """The device signalled an error on the queue (its error descriptor): it serves the queue no more."""
