"""Is an image in use?"""

import os
from pathlib import Path

from virtflash.cli import CommandError
from virtflash.file_lock import lock_file


def refuse_held(image: Path, advice: str) -> None:
    """CommandError: a server holds it. Whatever else may be wrong with it is for others to tell."""
    try:
        fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        lock_file(fd, shared=True)
    except BlockingIOError:
        raise CommandError(f"{image}: a server uses it; {advice}") from None
    except OSError:  # a file system without locks cannot be asked
        return
    finally:
        os.close(fd)
