"""What this program starts does not outlive it, however it ends."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal was closed
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def unwind_on_signals() -> None:
    """Let a signal that ends the program raise SystemExit, so that what it started and made is taken along.

    What was ignored stays ignored: SIGHUP under nohup, SIGINT in the background of a script.
    """
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _unwind)


def _unwind(number: int, _frame: FrameType | None) -> None:
    # Who closes a terminal, or is impatient, sends several; the later ones would cut the cleaning up short. (Not
    # SIG_IGN: Python complains of a signal that has arrived already.)
    for each in ENDING:
        signal.signal(each, _disregard)
    sys.exit(128 + number)


def _disregard(_number: int, _frame: FrameType | None) -> None:
    """Cleaning up is under way."""


def end_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` for subprocess.Popen: the child gets SIGTERM when this process is gone, killed or crashed too.

    None in other threads than the main one: prctl(2) means the end of the thread that forked.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    parent = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # found before the fork: nothing is looked up between it and exec

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it was gone before it could be asked for
            os.kill(os.getpid(), signal.SIGTERM)

    return ask
