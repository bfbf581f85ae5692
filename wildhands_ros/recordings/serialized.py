"""What a serialised message (CDR) tells without being taken apart."""

from __future__ import annotations

import struct


def header_stamp_ns(message: bytes) -> int | None:
    """The stamp of a message that begins with a header, in integer nanoseconds; None where it is too short for one.

    Four bytes come first, of which the second tells the byte order, and then the header, which opens with its stamp.
    """
    if len(message) < 12:
        return None
    sec, nanosec = struct.unpack_from("<iI" if message[1] == 1 else ">iI", message, 4)
    return int(sec) * 10**9 + int(nanosec)
