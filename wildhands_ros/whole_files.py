"""Files that are whole at any time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from wildhands_ros.errors import RecordingError

_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that whoever opens it finds what was there before or all of the new content, never a part.

    It gets the permissions of any new file. Raises OSError with its path, and leaves nothing behind then. Links are
    followed, and what is no file, such as /dev/stdout or a pipe, is written to and not replaced.
    """
    if (stream := _STREAMS.get(str(path))) is not None:  # which may be a file, where more is written before and after
        sys.stdout.flush()
        with os.fdopen(os.dup(stream), "wb") as file:
            file.write(data)
        return
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path))
    # several processes and threads may write the same file
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    with becoming(path, partial):
        partial.write_bytes(data)


@contextlib.contextmanager
def becoming(path: Path, partial: Path) -> Iterator[None]:
    """What is written to `partial` meanwhile, in the same folder, is then the file `path`.

    Nothing is left of it where it could not be written, on a full disk least of all. Errors of the system name `path`.
    """
    try:
        with naming(path):
            yield
            partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system that come meanwhile name this file.

    By themselves those of writing into an open file, on a full disk say, name none, and those of a partial file one
    that nobody knows.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def checksum(path: Path) -> int:
    """CRC-32 of a file's content, by which damage shows, though no malice. Raises OSError."""
    found = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found = zlib.crc32(part, found)
    return found


def keep_others_away(descriptor: int, path: Path) -> None:
    """Nobody else who asks so writes to this open file or folder until it is closed, or the process ends.

    Raises RecordingError where somebody else writes there. On file systems without locks nobody is kept away.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RecordingError(f"another program is writing {path} at this moment: choose another name") from error
    except OSError:
        pass
