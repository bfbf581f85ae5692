"""Reads what is left of a damaged or unfinished bag file, without its index.

The layouts are those of the MCAP specification (https://mcap.dev/spec) and of rosbag2's SQLite storage.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from binascii import crc32
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Protocol

from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]

from wildhands_ros.errors import RecordingError
from wildhands_ros.recordings.zstandard import zstd

_MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = range(1, 7)
_CHUNK_INDEX = 8
_DATA_END, _LAST_OPCODE, _PRIVATE_OPCODES = 0x0F, 0x0F, 0x80
_FOOTER_HEAD = struct.pack("<BQ", _FOOTER, 20)
_LARGEST_CHUNK = 1 << 30  # bytes, unpacked; recorders end one at some megabytes, or after one large message
_LARGEST_SUMMARY = 1 << 26  # bytes; a hundred for each chunk, and definitions of messages
_MOST_TOLD = 10  # places of a file that are damaged


@dataclass(frozen=True)
class Definition:
    """A topic's message definition as it was recorded ("" where it was not)."""

    msgtype: str
    encoding: str
    text: str


_UNKNOWN = Definition("", "", "")


@dataclass(frozen=True)
class RawMessage:
    """One recorded message; data: CDR. log_time_ns: when it was recorded."""

    topic: str
    msgtype: str
    log_time_ns: int
    data: bytes


class Salvage(Protocol):
    """Recorded messages in the order of the file. `damage` says what was wrong, once everything was read."""

    damage: list[str]

    @property
    def topics(self) -> dict[str, Definition]: ...

    @property
    def counts(self) -> Counter[str]: ...

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]: ...

    def close(self) -> None:
        """Nothing more will be read."""
        ...


def salvage(path: Path) -> Salvage:
    """The salvager for a file, by its content. Raises RecordingError where it is no bag."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from error
    if head.startswith(_MAGIC):
        return McapSalvage(path)
    if head.startswith(b"SQLite format 3\0"):
        return SqliteSalvage(path)
    raise RecordingError(
        f"{path} is no bag: it is empty"
        if not head
        else f"{path} is no bag: it begins neither as MCAP nor as SQLite, so it is damaged or another kind of file"
    )


class McapSalvage:
    """Walks the records of an MCAP file from the front.

    Behind damage it goes on at the next chunk, where the end of the file is intact and tells where chunks begin.
    Incomplete chunks are decompressed as far as they go; chunks that contradict their checksum are left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schemas: dict[int, Definition] = {}
        self._channels: dict[int, str] = {}
        # where chunks begin, and with which bytes, as the end of the file says
        self._told_chunks: list[tuple[int, bytes]] = []
        self._chunks: list[int] = []  # where those of them begin that are really there, in order
        self.topics: dict[str, Definition] = {}
        self.counts: Counter[str] = Counter()
        self.damage: list[str] = []
        self._read_summary()
        for message in self._scan():
            self.counts[message.topic] += 1

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """The messages of these topics."""
        return (m for m in self._scan() if m.topic in topics)

    def close(self) -> None:
        """Nothing stays open."""

    def _tell(self, damage: str) -> None:
        """Notes damage; of a small chunk a hundred million records may contradict themselves."""
        if len(self.damage) < _MOST_TOLD:
            self.damage.append(damage)
        elif len(self.damage) == _MOST_TOLD:
            self.damage.append("is damaged elsewhere, too")

    def _read_summary(self) -> None:
        """Reads topics, and where chunks begin, from the file's end, if it has one: what is before may be damaged."""
        with self._path.open("rb") as file:
            end = file.seek(0, os.SEEK_END) - len(_FOOTER_HEAD) - 20 - len(_MAGIC)
            file.seek(max(end, 0))
            footer = file.read()
            if footer[: len(_FOOTER_HEAD)] != _FOOTER_HEAD or not footer.endswith(_MAGIC):
                return
            (start,) = struct.unpack_from("<Q", footer, len(_FOOTER_HEAD))
            if 0 < start < end <= start + _LARGEST_SUMMARY:
                file.seek(start)
                for _ in self._records(file.read(end - start)):
                    pass  # no messages are there
            # the index of chunks may be damaged as well: only those count that are really there
            there = (place for place, head in self._told_chunks if place < start and _is_at(file, place, head))
            self._chunks = sorted(there)

    def _scan(self) -> Iterator[RawMessage]:
        self.damage = []
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            place = len(_MAGIC)
            while True:
                file.seek(place)
                head = file.read(9)
                if len(head) < 9:
                    self._tell(f"ends without index after {size} bytes")
                    return
                code, length = struct.unpack("<BQ", head)
                ends = code in (_DATA_END, _FOOTER)
                senseless = code == 0 or _LAST_OPCODE < code < _PRIVATE_OPCODES
                known = bisect_right(self._chunks, place)
                chunk = self._chunks[known] if known < len(self._chunks) else None
                if chunk is not None and (ends or senseless or place + 9 + length > chunk):
                    self._tell(f"makes no sense from byte {place} to {chunk}")
                    place = chunk
                    continue
                if ends:
                    return
                if senseless:
                    self._tell(f"makes no sense from byte {place} of {size} on")
                    return
                place += 9
                whole = place + length <= size
                if not whole:
                    self._tell(f"is cut off in a record at byte {place} ({size} of {place + length} bytes)")
                if code == _CHUNK:
                    yield from self._chunk(file.read(min(length, size - place)), place)
                elif whole and code in (_SCHEMA, _CHANNEL, _MESSAGE):
                    yield from self._record(code, file.read(length))
                if not whole:
                    return
                place += length

    def _chunk(self, body: bytes, place: int) -> Iterator[RawMessage]:
        try:
            size, checksum, name_length = struct.unpack_from("<QII", body, 16)
            compression = body[32 : 32 + name_length].decode("ascii")
            (compressed_size,) = struct.unpack_from("<Q", body, 32 + name_length)
            compressed = body[40 + name_length : 40 + name_length + compressed_size]
            records = _decompress(compressed, compression, size)
        except (struct.error, ValueError, RuntimeError, zstd.ZstdError, EOFError, MemoryError) as error:
            self._tell(f"has an unreadable chunk at byte {place} ({str(error) or type(error).__name__})")
            return
        if checksum and len(records) == size and crc32(records) != checksum:
            self._tell(f"has a chunk at byte {place} that contradicts its checksum")
            return
        yield from self._records(records)

    def _records(self, data: bytes) -> Iterator[RawMessage]:
        """The messages among the records of a chunk, up to one that is cut off."""
        place = 0
        while place + 9 <= len(data):
            code, length = struct.unpack_from("<BQ", data, place)
            place += 9
            if place + length > len(data):
                return
            yield from self._record(code, data[place : place + length])
            place += length

    def _record(self, code: int, body: bytes) -> Iterator[RawMessage]:
        try:
            if code == _SCHEMA:
                (key,) = struct.unpack_from("<H", body)
                name, encoding, text = _strings(body, 2, 3)
                self._schemas[key] = Definition(name, encoding, text)
            elif code == _CHUNK_INDEX:
                first, last, place, length = struct.unpack_from("<QQQQ", body)
                self._told_chunks.append((place, struct.pack("<BQQQ", _CHUNK, max(length - 9, 0), first, last)))
            elif code == _CHANNEL:
                key, schema = struct.unpack_from("<HH", body)
                topic, _ = _strings(body, 4, 2)
                self._channels[key] = topic
                # the end of the file may tell of topics without their types
                if not self.topics.get(topic, _UNKNOWN).msgtype:
                    self.topics[topic] = self._schemas.get(schema, _UNKNOWN)
            elif code == _MESSAGE:
                key, _, log_time = struct.unpack_from("<HIQ", body)
                channel = self._channels.get(key)
                if channel is not None and len(body) > 22:
                    yield RawMessage(channel, self.topics[channel].msgtype, log_time, body[22:])
        except (struct.error, UnicodeDecodeError):
            self._tell("has a record that contradicts itself")


def _is_at(file: BinaryIO, place: int, content: bytes) -> bool:
    file.seek(place)
    return file.read(len(content)) == content


class SqliteSalvage:
    """Reads the messages table of a rosbag2 SQLite file in the order of writing, up to the first damaged page.

    A write-ahead log beside the file (an unfinished recording has one) is taken into account: both are copied, once,
    as SQLite merges the log only where it may write. Raises RecordingError where there is no room for that.
    """

    def __init__(self, path: Path) -> None:
        self._copy = _copied(path)
        self._path = path if self._copy is None else Path(self._copy.name) / path.name
        try:
            self._look_over(path)
        except BaseException:
            self.close()
            raise

    def _look_over(self, path: Path) -> None:
        self._ids: dict[int, str] = {}
        self.topics: dict[str, Definition] = {}
        self.counts: Counter[str] = Counter()
        self.damage: list[str] = []
        self._nameless = 0
        with _opened(self._path) as database:
            try:
                _refuse_computed_tables(database, path)
                definitions = self._definitions(database)
                for key, name, msgtype in database.execute("SELECT id, name, type FROM topics"):
                    if isinstance(name, str) and isinstance(msgtype, str):
                        self._ids[key] = name
                        self.topics[name] = definitions.get(msgtype, Definition(msgtype, "", ""))
                    else:
                        self._nameless += 1
            except sqlite3.Error as error:
                raise RecordingError(f"{path} is damaged beyond its list of topics ({error})") from error
        for message in self.messages(self.topics):
            self.counts[message.topic] += 1

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """The messages of these topics."""
        self.damage = []
        count = senseless = 0
        with _opened(self._path) as database:
            try:
                rows = database.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id")
                for topic, time_ns, data in rows:
                    count += 1
                    name = self._ids.get(topic)
                    if not isinstance(time_ns, int) or not isinstance(data, bytes):
                        senseless += 1
                    elif name in topics and name is not None:
                        yield RawMessage(name, self.topics[name].msgtype, time_ns, data)
            except sqlite3.Error as error:
                self.damage.append(f"is damaged or cut off after {count} messages ({error})")
        if senseless:
            self.damage.append(f"holds {senseless} messages that are none")
        if self._nameless:
            self.damage.append(f"holds {self._nameless} topics without a name or type, whose messages are left out")

    def close(self) -> None:
        """Removes the copy, where there is one."""
        if self._copy is not None:
            self._copy.cleanup()

    @staticmethod
    def _definitions(database: sqlite3.Connection) -> dict[str, Definition]:
        query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        try:
            return {row[0]: Definition(*row) for row in database.execute(query)}
        except sqlite3.Error:  # bags before Iron have none
            return {}


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, readable as far as possible, without changing anything beside it."""
    uri = path.resolve().as_uri()
    if write_ahead_log(path) is None:
        uri += "?mode=ro&immutable=1"
    database = sqlite3.connect(uri, uri=True)
    try:
        database.execute("PRAGMA writable_schema = ON")  # else SQLite refuses files that are cut off altogether
        database.execute("PRAGMA trusted_schema = OFF")
        yield database
    finally:
        database.close()


def refuse_computed_tables(path: Path) -> None:
    """Raises RecordingError for an SQLite file whose content SQL computes when it is read, perhaps without end."""
    with _opened(path) as database:
        _refuse_computed_tables(database, path)


def _refuse_computed_tables(database: sqlite3.Connection, path: Path) -> None:
    # Views and virtual tables (and triggers) have no page of their own, whatever else the file says of them
    computed = database.execute("SELECT count(*) FROM sqlite_master WHERE CAST(rootpage AS INTEGER) = 0").fetchone()[0]
    for table in ("topics", "messages"):
        computed += sum(column[-1] in (2, 3) for column in database.execute(f"PRAGMA table_xinfo({table})"))
    if computed:
        raise RecordingError(f"{path} holds SQL that computes what is in it, which no recorder writes: it is not read")


def _copied(path: Path) -> TemporaryDirectory[str] | None:
    """A folder with a copy of the file and of its write-ahead log; None where there is none."""
    log = write_ahead_log(path)
    if log is None:
        return None
    folder = TemporaryDirectory(prefix="wildhands-bag-")
    try:
        copy = Path(folder.name) / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(log, copy.with_name(log.name))
    except OSError as error:
        folder.cleanup()
        raise RecordingError(
            f"{path} has a write-ahead log, and there is no room for a copy of both in {Path(folder.name).parent} "
            f"({error.strerror}): set TMPDIR to a larger folder"
        ) from error
    return folder


def write_ahead_log(path: Path) -> Path | None:
    """The log beside an SQLite file that holds messages not yet in it, or None."""
    log = path.with_name(f"{path.name}-wal")
    return log if log.is_file() and log.stat().st_size > 0 else None


def _decompress(data: bytes, compression: str, size: int) -> bytes:
    """As much of a chunk's content as `data` holds. size: its uncompressed size as the chunk claims it, the limit.

    Raises ValueError where that is too large or the compression unknown, and whatever the decompressors raise.
    """
    if size > _LARGEST_CHUNK:
        raise ValueError(f"it claims to unpack to {size} bytes")
    decompressors: dict[str, Callable[[bytes], bytes]] = {
        "": lambda d: d,
        "lz4": lambda d: bytes(LZ4FrameDecompressor().decompress(d, max_length=size)),
        "zstd": lambda d: bytes(zstd.ZstdDecompressor().decompress(d, size)),
    }
    if compression not in decompressors:
        raise ValueError(f"unknown compression '{compression}'")
    return decompressors[compression](data)


def _strings(data: bytes, place: int, count: int) -> list[str]:
    """`count` strings, each after its length."""
    result = []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, place)
        if place + 4 + length > len(data):
            raise struct.error("string reaches past its record")
        result.append(data[place + 4 : place + 4 + length].decode("utf-8"))
        place += 4 + length
    return result
