"""Messages out of rosbag2 folders and files, damaged ones as far as they go."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import cast

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinitionFormat, Nodetype
from rosbags.interfaces.typing import Typesdict
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from wildhands_ros.errors import RecordingError
from wildhands_ros.recordings.message_types import PACKAGE, learn_installed_type, make_typestore
from wildhands_ros.recordings.pictures import natural_key
from wildhands_ros.recordings.salvage import (
    Definition,
    RawMessage,
    Salvage,
    refuse_computed_tables,
    salvage,
    write_ahead_log,
)
from wildhands_ros.recordings.zstandard import unpack_file, unpacked
from wildhands_ros.texts import listed
from wildhands_ros.yaml_files import read_yaml

logger = logging.getLogger(__name__)

BAG_SUFFIXES = frozenset({".mcap", ".db3"})
PACKED_SUFFIXES = (".zstd", ".zst")  # rosbag2's, and that of the program zstd
_64_BITS = 2**64 - 1
_OPEN_AT_ONCE = 64  # files of one bag; processes may often have no more than 1024
_NO_SCHEMA = "__schemaless__"  # as rosbags calls the type of a channel whose schema it does not find
_MOST_WRITTEN_OUT = 10_000  # fields, and elements of arrays, for each of which rosbags writes lines of code

Report = Callable[[str], None]


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag: its name, message type, and number of messages (as far as the bag knows)."""

    name: str
    msgtype: str
    count: int


def is_bag(path: Path) -> bool:
    """Whether this is a bag file, compressed or not, or a folder with rosbag2's metadata.yaml or bag files in it."""
    if path.is_dir():
        return bool(_bag_files(path)) or _describes_a_bag(path / "metadata.yaml")
    return _is_bag_file(path)


class BagReader:
    """A rosbag2 folder, or a single .mcap or .db3 file with or without its metadata.yaml; a context manager.

    Both of rosbag2's ways of compressing are understood, whole files (.mcap.zstd) and single messages. Where the index
    or the metadata is missing or damaged, the files are read from the front as far as they make sense, and `problems`
    says so. Raises RecordingError where nothing can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._problems: list[str] = []
        self._store = make_typestore()
        self._stores: dict[str, Typestore] = {}  # with which each of our own types is read
        self._plain = _PlainFiles(self._report)
        try:
            self._parts = self._open(self.path)
        except MemoryError as error:
            self._plain.close()
            raise RecordingError(_too_large(self.path)) from error
        except BaseException:
            self._plain.close()
            raise
        if not self._parts:
            self._plain.close()
            raise RecordingError(f"{self.path} cannot be read as a bag: {'; '.join(self._problems)}")

    @property
    def problems(self) -> tuple[str, ...]:
        """What was wrong with the bag so far; each was also logged as a warning."""
        return tuple(self._problems)

    @property
    def topics(self) -> dict[str, BagTopic]:
        """The bag's topics by name."""
        result: dict[str, BagTopic] = {}
        for part in self._parts:
            for topic in part.topics():
                known = result.get(topic.name)
                result[topic.name] = BagTopic(topic.name, topic.msgtype, topic.count + (known.count if known else 0))
        return dict(sorted(result.items()))

    def messages(self, topics: Collection[str] | None = None) -> Iterator[RawMessage]:
        """The messages of these topics (None: all) by the time they were recorded. Raises RecordingError."""
        wanted = self.topics.keys() if topics is None else topics
        try:
            for part in self._parts:
                for message in part.messages(wanted):
                    yield replace(message, data=unpacked(message.data))
        except MemoryError as error:
            raise RecordingError(_too_large(self.path)) from error

    def deserialize(self, message: RawMessage) -> object:
        """The message as an object with the fields of its definition. Raises RecordingError."""
        if message.msgtype not in self._store.fielddefs and not self._learn(message):
            raise RecordingError(
                f"{message.topic} is of type {message.msgtype}, whose definition is neither in the bag nor installed: "
                "source the workspace that defines it"
            )
        try:
            return self._store_for(message.msgtype).deserialize_cdr(message.data, message.msgtype)
        except MemoryError:
            pass  # it holds on to all that was made so far, so that there would be no memory for an error's text
        except Exception as error:  # rosbags lets numpy's and struct's errors through where the bytes are damaged
            raise RecordingError(f"a message of {message.topic} is damaged ({error})") from error
        raise RecordingError(f"a message of {message.topic} is damaged (it asks for more memory than there is)")

    def close(self) -> None:
        """Closes the files; nothing can be read any more."""
        for part in self._parts:
            part.close()
        self._plain.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, path: Path) -> list[_Part]:
        if not path.exists():
            raise RecordingError(f"{path} does not exist")
        if not path.is_dir():
            return [self._open_file(path)]
        files = _bag_files(path)
        # the files of others are opened, and unpacked, one after the other
        few = len(files) <= _OPEN_AT_ONCE and sum(_is_packed(file) for file in files) <= 1
        if not (path / "metadata.yaml").is_file():
            several = f"; its {len(files)} files are read as one recording" if len(files) > 1 else ""
            self._report(f"{path} has no metadata.yaml, as after a recording that was not finished{several}")
        elif not few or any(write_ahead_log(f) for f in files):  # which rosbags does not look at
            self._report_missing_files(path, files)
        else:
            whole, files = self._open_as_listed(path, files)
            if whole is not None:
                return [whole]
        return self._open_one_by_one(path, files, stay_open=few)

    def _open_as_listed(self, path: Path, files: list[Path]) -> tuple[_Part | None, list[Path]]:
        """The folder as its metadata.yaml describes it, and its files.

        None where they have to be read one by one, and then which of them, in which order.
        """
        try:
            reader = _opened(path)
        except _Unreadable as error:
            self._report(f"{path}: {error}; reading its files one by one")
            return None, files
        starts = _starts_of_listed(reader)
        if not starts:  # nothing tells that it has these files, nor that others are copies
            starts = {_plain_name(file): 0 for file in files}
        unlisted = [file.name for file in files if _plain_name(file) not in starts]
        if unlisted:
            self._report(
                f"{path}: its metadata.yaml does not list {', '.join(unlisted)}, which is not read: name the "
                "file itself, or have it listed (ros2 bag reindex)"
            )
            files = [file for file in files if file.name not in unlisted]
        times = [time_ns for time_ns in starts.values() if time_ns is not None]
        if times == sorted(times):
            return _Part(path, files, self._report, reader, self._plain), files
        _close(reader)
        self._report(f"{path}: its metadata.yaml does not list its files by their times; reading them one by one")
        return None, sorted(files, key=lambda file: starts[_plain_name(file)] or 0)

    def _open_one_by_one(self, path: Path, files: list[Path], *, stay_open: bool) -> list[_Part]:
        """Each of the folder's files that can be read, by the times at which they begin."""
        parts = []
        for file in files:
            try:
                parts.append(self._open_file(file, stays_open=stay_open))
            except RecordingError as error:
                self._report(str(error))
        if not files:
            self._report(f"{path} holds no bag files: its .mcap or .db3 files are missing")
        begun = [part.start_ns for part in parts if part.start_ns is not None]
        if begun != sorted(begun):
            self._report(f"{path}: its files are read in the order of their times, not of their names")
            parts.sort(key=lambda part: part.start_ns or 0)
        return parts

    def _report_missing_files(self, folder: Path, files: list[Path]) -> None:
        """Says which files its metadata.yaml lists that are not there. Where rosbags reads it, that does."""
        there = {_plain_name(file) for file in files}
        try:
            told = read_yaml(folder / "metadata.yaml", RecordingError)["rosbag2_bagfile_information"]
            missing = [name for name in map(str, told["relative_file_paths"]) if _plain_name(Path(name)) not in there]
        except (RecordingError, KeyError, TypeError) as error:  # damaged: empty, cut off, anything
            self._report(f"{folder}: its metadata.yaml does not list its files ({error}); reading all that are there")
        else:
            if missing:
                self._report(f"{folder}: files that its metadata.yaml lists are missing: {listed(missing)}")

    def _open_file(self, file: Path, *, stays_open: bool = True) -> _Part:
        plain = self._plain.of(file)
        if plain.suffix.lower() == ".bag":
            raise RecordingError(f"{plain} is a ROS 1 bag: convert it with rosbags-convert --src {plain}")
        reason = "it has a write-ahead log"
        if write_ahead_log(plain) is None:
            try:
                reader = _opened(plain)
            except _Unreadable as error:
                reason = str(error).removesuffix(".")
            else:
                if stays_open:
                    return _Part(plain, [plain], self._report, reader, self._plain)
                part = _Part(file, [file], self._report, reader, self._plain, stays_open=False)
                _close(reader)
                self._plain.release(plain)
                return part
        part = _Part(plain, [plain], self._report, None, self._plain)
        try:
            part.look_over(reason)
        except RecordingError as error:  # which knows it by where it was unpacked
            raise RecordingError(str(error).replace(str(plain), str(file))) from error
        return part

    def _learn(self, message: RawMessage) -> bool:
        # rosbags makes code of definitions, which fails in any way: names that are none, ...
        with suppress(Exception):
            if types := self._recorded_types(message.msgtype):
                self._store.register({k: v for k, v in types.items() if k not in self._store.fielddefs})
                return True
        return learn_installed_type(self._store, message.msgtype)

    def _recorded_types(self, msgtype: str) -> Typesdict:
        """The type, and those of its fields, as the bag defines them; empty where it does not, or without end."""
        definition = next((d for p in self._parts for d in p.definitions() if d.msgtype == msgtype), None)
        with suppress(Exception):
            if definition is not None and definition.encoding == "ros2msg":
                types = get_types_from_msg(definition.text, definition.msgtype)
                return types if _written_out(types) <= _MOST_WRITTEN_OUT else {}
        return {}

    def _store_for(self, msgtype: str) -> Typestore:
        """The types to read messages of this type with: where another version of this package wrote it, that one's."""
        if not msgtype.startswith(f"{PACKAGE}/"):
            return self._store
        if msgtype not in self._stores:
            self._stores[msgtype] = self._store
            types = self._recorded_types(msgtype)
            if any(
                name.startswith(f"{PACKAGE}/") and self._differs(name, fields) for name, (_, fields) in types.items()
            ):
                with suppress(Exception):
                    store = get_typestore(Stores.ROS2_KILTED)
                    store.register({name: fields for name, fields in types.items() if name not in store.fielddefs})
                    self._stores[msgtype] = store
        return self._stores[msgtype]

    def _differs(self, name: str, fields: object) -> bool:
        return name not in self._store.fielddefs or self._store.fielddefs[name][1] != fields

    def _report(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems.append(problem)
            logger.warning(problem)


class _PlainFiles:
    """Bag files uncompressed: plain ones where they are, compressed ones as copies in temporary folders."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._folders: dict[Path, TemporaryDirectory[str]] = {}

    def of(self, file: Path) -> Path:
        """The file itself, or its uncompressed copy. Raises RecordingError where there is no room for one."""
        if not _is_packed(file):
            return file
        folder = TemporaryDirectory(prefix="wildhands-bag-")
        plain = Path(folder.name) / file.stem
        self._folders[plain] = folder
        damage = unpack_file(file, plain)
        if damage:
            self._report(f"{file} {damage}")
        return plain

    def release(self, plain: Path) -> None:
        """Deletes an uncompressed copy; files that were never compressed stay."""
        folder = self._folders.pop(plain, None)
        if folder is not None:
            folder.cleanup()

    def close(self) -> None:
        """Deletes all uncompressed copies."""
        for plain in list(self._folders):
            self.release(plain)


class _Unreadable(Exception):
    """What rosbags cannot open; the text says why."""


class _Sqlite(Sqlite3Reader):
    """Reads files of any name, and refuses those whose tables SQL computes (views, virtual tables)."""

    def open(self) -> None:
        path = self.path
        refuse_computed_tables(cast(Path, path))
        # rosbags puts the path into a URI unescaped, where these characters have a meaning
        self.path = Path(str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23"))
        try:
            super().open()
        finally:
            self.path = path


class _Mcap(McapReader):
    """Reads only files whose index is complete: it knows all topics with their types, and leads to all messages."""

    def open(self) -> None:
        super().open()
        indexed = Counter[int]()
        for chunk in self.chunks:
            indexed.update(chunk.channel_count)
        if not any(c.msgcount for c in self.connections):  # statistics may leave out what they count by channel
            self.connections = [c._replace(msgcount=indexed[c.id]) for c in self.connections]
        told = Counter({c.id: c.msgcount for c in self.connections})
        miscounted = told.total() != self.metadata.message_count or (indexed and told != indexed)
        if miscounted or self._is_wrongly_empty():
            self.close()
            raise ReaderError("its index does not know all messages")
        nameless = not self.connections or any(map(_lacks_schema, self.connections))
        unindexed = any(chunk.message_end_time and not chunk.channel_count for chunk in self.chunks)
        if (self.metadata.message_count and nameless) or unindexed:
            self.close()
            raise ReaderError("its index is not whole")

    def _is_wrongly_empty(self) -> bool:
        """Whether there are messages although the index knows none. Of a file without any, there is little to read."""
        return not self.metadata.message_count and any(salvage(cast(Path, self.path)).counts.values())

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        if self.chunks:
            yield from super().messages(connections, start, stop)
            return
        alone = copy(self)  # with its own position in the file: without index rosbags reads on from where it last was
        with cast(Path, self.path).open("rb") as alone.bio:
            yield from McapReader.messages(alone, connections, start, stop)


def _lacks_schema(connection: Connection) -> bool:
    """Whether a topic of ROS messages has no type; topics of JSON, say, need none."""
    cdr = isinstance(connection.ext, ConnectionExtRosbag2) and connection.ext.serialization_format == "cdr"
    return cdr and connection.msgtype == _NO_SCHEMA


class _Directory(DirectoryReader):
    """Leaves decompressing messages to `unpacked`, which has a limit, and tells topics apart by name and type alone.

    rosbags also compares the QoS that metadata.yaml and the file note for a topic, and returns none of its messages
    where they differ, for instance because somebody changed it in metadata.yaml for `ros2 bag play`.
    """

    STORAGE_PLUGINS = {**DirectoryReader.STORAGE_PLUGINS, "mcap": _Mcap, "sqlite3": _Sqlite}

    def open(self) -> None:
        read_yaml(cast(Path, self.path) / "metadata.yaml", RecordingError)  # refuses what has no end; rosbags does not
        super().open()
        files = [storage.path for storage in cast("list[McapReader | Sqlite3Reader]", self.storages)]
        if len(set(files)) < len(files):
            self.close()
            raise ReaderError("its metadata.yaml lists a file twice")
        if not all(isinstance(c.msgcount, int) and 0 <= c.msgcount <= _64_BITS for c in self.connections):
            self.close()
            raise ReaderError("its metadata.yaml counts messages in what is no number of them")
        told = {connection.topic for connection in self.connections if connection.msgcount}
        hidden = {c.topic for storage in self.storages for c in storage.connections if c.msgcount} - told
        if hidden:
            self.close()
            raise ReaderError(f"its metadata.yaml tells of no messages of {listed(sorted(hidden))}")
        if self.metadata.compression_mode == "message":
            self.metadata = self.metadata._replace(compression_mode=None)
        plain = ConnectionExtRosbag2("cdr", [])
        for reader in (self, *self.storages):
            reader.connections = [c._replace(digest="", ext=plain) for c in reader.connections]


class _Reader(Reader):
    STORAGE_PLUGINS = {**Reader.STORAGE_PLUGINS, ".mcap": _Mcap, ".db3": _Sqlite, "dir": _Directory}


def _opened(path: Path) -> Reader:
    try:
        reader = _Reader(path)
        reader.open()
    except Exception as error:  # damaged bytes surface as anything: struct, zlib, assertion, database errors, ...
        raise _Unreadable(str(error) or type(error).__name__) from error
    if not all(isinstance(text, str) for c in reader.connections for text in (c.topic, c.msgtype)):
        _close(reader)
        raise _Unreadable("a topic has no name or type")
    return reader


def _starts_of_listed(reader: Reader) -> dict[str, int | None]:
    """When the first message of each file was recorded (None: there is none), by name, as metadata.yaml lists them."""
    storages = cast("list[McapReader | Sqlite3Reader]", cast(DirectoryReader, reader.storage).storages)
    return {cast(Path, s.path).name: s.metadata.start_time if s.metadata.message_count else None for s in storages}


class _Part:
    """One file, or the files that one metadata.yaml describes: read by its index, else from the front."""

    def __init__(
        self, path: Path, files: list[Path], report: Report, reader: Reader | None, plain: _PlainFiles, *,
        stays_open: bool = True,
    ) -> None:  # fmt: skip
        """reader: opened; None where there is no index. stays_open: False for one of many files, which cannot all be
        kept open, or uncompressed, at once: the reader is closed afterwards, and a new one opened for every reading."""
        self._path, self._files, self._report, self._plain = path, files, report, plain
        self._salvaged: dict[Path, Salvage] = {}
        self._told: set[tuple[Path, str]] = set()  # which damage was reported when the file was looked over
        self._closed = False
        self._indexed = reader is not None
        self._reader = reader if stays_open else None
        connections = [] if reader is None else reader.connections
        self._topics = [BagTopic(c.topic, c.msgtype, c.msgcount) for c in connections]
        self._definitions = [_definition(c) for c in connections]
        self.start_ns = reader.start_time if reader is not None and reader.message_count else None

    def look_over(self, reason: str) -> None:
        """Finds out what can be salvaged. Raises RecordingError where there is nothing.

        reason: why the index is not used, to be reported for files in which no damage is found.
        """
        for file in self._files:
            saved = self._salvaged[file] = salvage(file)
            self._told.update((file, damage) for damage in saved.damage)
            found = sum(saved.counts.values())
            damage = ", ".join(saved.damage) or f"is read from the front ({reason})"
            self._report(f"{file} {damage}: {found} messages saved")
            first = next(saved.messages(saved.topics), None)
            if first is not None and self.start_ns is None:
                self.start_ns = first.log_time_ns

    def topics(self) -> list[BagTopic]:
        if self._indexed:
            return self._topics
        return [BagTopic(n, d.msgtype, s.counts[n]) for s in self._salvaged.values() for n, d in s.topics.items()]

    def definitions(self) -> list[Definition]:
        if self._indexed:
            return self._definitions
        return [d for s in self._salvaged.values() for d in s.topics.values()]

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        self._require_open()
        times: dict[str, array[int]] = {}  # of the messages given so far, by topic: eight bytes each
        if self._indexed:
            wanted = [topic for topic in self._topics if topic.name in topics]
            if not wanted:  # to rosbags no connections mean all of them
                return
            try:
                with self._opened() as reader:
                    connections = [c for c in reader.connections if c.topic in topics]
                    for connection, time_ns, data in reader.messages(connections):
                        times.setdefault(connection.topic, array("Q")).append(time_ns & _64_BITS)
                        yield RawMessage(connection.topic, connection.msgtype, time_ns, bytes(data))
                if all(topic.name in times or not topic.count for topic in wanted):
                    return
                self._report(f"{self._path} announces messages that its index does not lead to: reading it without")
            except Exception as error:  # damaged bytes surface as anything
                self._require_open()
                self._report(f"{self._path} is damaged or out of order ({error}): reading on without its index")
        # by topic and time: files need not be in the order of time
        given = Counter((topic, time_ns) for topic, all_times in times.items() for time_ns in all_times)
        for file in self._files:
            for message in self._from_the_front(file, topics):
                key = message.topic, message.log_time_ns & _64_BITS
                if given[key] > 0:
                    given[key] -= 1
                else:
                    yield message

    @contextmanager
    def _opened(self) -> Iterator[Reader]:
        if self._reader is not None:
            yield self._reader
            return
        plain = self._plain.of(self._path)
        try:
            reader = _opened(plain)
            try:
                yield reader
            finally:
                _close(reader)
        finally:
            self._plain.release(plain)

    def _from_the_front(self, file: Path, topics: Collection[str]) -> Iterator[RawMessage]:
        try:
            saved = self._salvaged[file] if file in self._salvaged else salvage(self._plain.of(file))
        except RecordingError as error:
            self._report(str(error))
            return
        self._salvaged[file] = saved
        yield from saved.messages(topics)
        for damage in saved.damage:
            if (file, damage) not in self._told:
                self._report(f"{file} {damage}")

    def _require_open(self) -> None:
        if self._closed:
            raise RecordingError(f"{self._path} has been closed: open it again to read it again")

    def close(self) -> None:
        self._closed = True
        if self._reader is not None:
            _close(self._reader)
        for saved in self._salvaged.values():
            saved.close()


def _definition(connection: Connection) -> Definition:
    kind = "ros2msg" if connection.msgdef.format is MessageDefinitionFormat.MSG else ""
    return Definition(connection.msgtype, kind, connection.msgdef.data)


def _written_out(types: Typesdict) -> int:
    """The number of fields in the definitions, plus that of elements in fixed arrays of anything but numbers."""
    kinds = [kind for _, fields in types.values() for _, kind in fields]
    arrays = [kind[1] for kind in kinds if kind[0] is Nodetype.ARRAY]
    lengths = [length for part, length in arrays if part[0] is not Nodetype.BASE or part[1][0] == "string"]
    return len(kinds) + sum(lengths)


def _too_large(path: Path) -> str:
    return f"{path} is damaged, or holds messages that are larger than the memory"


def _close(reader: Reader) -> None:
    with suppress(Exception):  # nothing was written, so nothing can be lost
        reader.close()


def _bag_files(folder: Path) -> list[Path]:
    """Its bag files in natural order; of a file that is there more than once, the uncompressed one, or rosbag2's."""
    files = [p for p in folder.iterdir() if _is_bag_file(p) and p.is_file()]
    ranks = ("", *PACKED_SUFFIXES)
    files.sort(key=lambda p: ranks.index(p.suffix.lower() if _is_packed(p) else ""), reverse=True)
    once = {_plain_name(p): p for p in files}  # the last one of each
    return sorted(once.values(), key=lambda p: natural_key(p.name))


def _describes_a_bag(metadata: Path) -> bool:
    """Whether a metadata.yaml, damaged or not, is rosbag2's: others have files of that name too."""
    try:
        return b"rosbag2_bagfile_information" in metadata.read_bytes()
    except OSError:
        return False


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in PACKED_SUFFIXES


def _plain_name(path: Path) -> str:
    return path.stem if _is_packed(path) else path.name


def _is_bag_file(path: Path) -> bool:
    return _plain_name(path).lower().endswith(tuple(BAG_SUFFIXES))
