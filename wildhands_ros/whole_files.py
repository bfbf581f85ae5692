"""Files that are never seen half written: replaced when complete, locked while written to, checked by checksums."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from wildhands_ros.errors import RecordingError

_ABANDONED_S = 60.0
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that whoever opens it finds either the old content or all of the new, never a part.

    It gets the permissions of any new file. Raises OSError that names the path, and leaves nothing behind then. Links
    are followed; what is not a regular file, such as /dev/stdout or a pipe, is written to and not replaced.
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
    """Renames `partial`, which the block writes in the same folder, to `path` when the block has succeeded.

    Where it fails, `partial` is deleted: it must not go on filling a full disk. Any OSError names `path`.
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
    """Lets an OSError that the block raises name this file.

    By itself, an error of writing to an open file (a full disk, say) names no file, and one of a partial file names a
    file that the user does not know.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def checksum(path: Path) -> int:
    """CRC-32 of a file's content: shows damage, but not tampering. Raises OSError."""
    found = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found = zlib.crc32(part, found)
    return found


def keep_others_away(descriptor: int, path: Path) -> None:
    """Locks an open file or folder against others who lock it too, until it is closed or the process ends.

    Raises RecordingError where somebody else holds the lock. On file systems without locks it does nothing.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RecordingError(f"another program is writing {path} at this moment: choose another name") from error
    except OSError:
        pass


def delete_abandoned(partials: Iterable[Path]) -> None:
    """Deletes those of these files that a process left which was killed as it wrote them.

    Their writers lock them (`keep_others_away`), so nobody holds the lock of such a file. What was written to within
    the last minute stays all the same, as it may be about to be locked; and so does all where there are no locks.
    """
    for partial in partials:
        # opened as for writing, or NFS does not lock it. Its age first: a new one's writer must not find it locked
        with contextlib.suppress(OSError):
            if _is_old(partial.stat()):
                with partial.open("r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_old(os.fstat(file.fileno())):
                        partial.unlink()


def _is_old(status: os.stat_result) -> bool:
    return time.time() - status.st_mtime > _ABANDONED_S
