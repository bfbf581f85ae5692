"""Zstandard, with which rosbag2 compresses whole files or single messages."""

from __future__ import annotations

import sys
from pathlib import Path

from wildhands_ros.errors import RecordingError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["unpack_file", "unpacked", "zstd"]

_PIECE = 1 << 20
_LARGEST_MESSAGE = 1 << 30  # bytes, unpacked: a few kilobytes could otherwise fill the memory
_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878; CDR begins with a zero


def unpacked(message: bytes) -> bytes:
    """A recorded message as CDR, decompressed where it is compressed.

    Left as it is where it cannot be decompressed, or only to more than 1 GiB.
    """
    if not message.startswith(_MAGIC):
        return message
    frame = zstd.ZstdDecompressor()
    try:
        plain = frame.decompress(message, _LARGEST_MESSAGE)
    except zstd.ZstdError:
        return message
    return plain if frame.eof and not frame.unused_data else message


def unpack_file(packed: Path, to: Path) -> str:
    """Unpacks a file as far as it goes. Returns what was wrong with it, "" for nothing.

    Raises RecordingError where it cannot be read at all, or the unpacked file not be written.
    """
    try:
        # piece by piece: zstd.open gives nothing of the last read before a cut
        with packed.open("rb") as source, to.open("wb") as target:
            frame = zstd.ZstdDecompressor()
            while piece := source.read(_PIECE):
                while piece:
                    if frame.eof:
                        frame = zstd.ZstdDecompressor()
                    target.write(frame.decompress(piece, _PIECE))
                    while not (frame.eof or frame.needs_input):  # few bytes may unpack to more than the memory
                        target.write(frame.decompress(b"", _PIECE))
                    piece = frame.unused_data
            return "" if frame.eof else "is cut off"
    except zstd.ZstdError as error:
        return f"is damaged ({error})"
    except OSError as error:
        raise RecordingError(f"cannot unpack {packed} into {to.parent}: {error.strerror}") from error
