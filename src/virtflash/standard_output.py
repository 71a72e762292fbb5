"""Standard output, which can be a full disk or a pipe that nobody reads."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def abandon_output() -> None:
    """Drop what is not written yet: Python would try again at its end, and complain once more."""
    if sys.stdout is None:  # closed by whoever started us
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def written_out() -> Iterator[None]:
    """Flushes what was written inside. OSError, fit for a user, where that fails; the rest is then dropped."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        abandon_output()
        raise OSError(f"cannot write to the standard output: {error.strerror}") from error
