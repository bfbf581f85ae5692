"""Messages into an MCAP bag that explains itself and survives being killed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys.store import Typestore

from wildhands_ros.errors import RecordingError, UnknownTypeError
from wildhands_ros.recordings.message_types import learn_installed_type, make_typestore
from wildhands_ros.whole_files import keep_others_away

FLUSH_PERIOD_S = 1.0

_FOREVER = QosTime(9223372036, 854775807)  # RMW_DURATION_INFINITE


def recorded_qos(*, reliable: bool = True, transient_local: bool = False, depth: int = 10) -> Qos:
    """A quality of service to note in a bag, so that `ros2 bag play` offers the same."""
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if transient_local else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )


class BagWriter:
    """Writes a rosbag2 in MCAP with message definitions and QoS embedded: Foxglove, rerun and `ros2 bag` open it.

    path: a folder to create (with metadata.yaml), or a file ending in `.mcap`, which appears when it is complete; until
        then it lies in a folder `<path>.recording`, and a file that was there before stays.
    overwrite: replace what is there; otherwise that is an error.

    What was written is handed to the operating system every second (and every MiB), so at most the last second is
    missing if the process is killed; `BagReader` reads such a bag, `ros2 bag reindex` and `mcap recover` repair it. A
    context manager; what was written before an exception is kept and finished.

    Raises RecordingError (existing path, full disk, unknown type).
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        single = self.path.suffix == ".mcap"
        self._folder = self.path.with_name(f"{self.path.stem}.mcap.recording") if single else self.path
        self._single = single
        self.typestore: Typestore = make_typestore()
        self._make_room(overwrite)
        self._writer = _Writer(self._folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Connection] = {}
        self.counts: dict[str, int] = {}
        try:
            self._writer.open()
            self._lock = _locked(self._folder)
        except (OSError, WriterError) as error:
            raise RecordingError(f"cannot create the bag {self.path}: {error}") from error
        self._flushed = time.monotonic()
        self._open = True
        self._failure: str | None = None  # why something could not be written, the first time

    @property
    def types(self) -> Mapping[str, type]:
        """Message classes by name ("sensor_msgs/msg/Image") from which `write` takes objects."""
        return self.typestore.types

    def add_topic(self, topic: str, msgtype: str, *, offered: Sequence[Qos] | None = None) -> None:
        """Announces a topic; adding it again does nothing.

        offered: the publishers' QoS; by default reliable, and transient local for /tf_static. Raises UnknownTypeError.
        """
        if topic in self._connections:
            known = self._connections[topic].msgtype
            if known != msgtype:
                raise RecordingError(f"{topic} is recorded as {known} and cannot hold {msgtype} too")
            return
        if not learn_installed_type(self.typestore, msgtype):
            raise UnknownTypeError(
                f"{topic} is of type {msgtype}, whose definition was not found: source the workspace that defines it"
            )
        if offered is None:
            offered = [recorded_qos(transient_local=topic == "/tf_static")]
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=self.typestore, offered_qos_profiles=offered
        )
        self.counts[topic] = 0

    def write(self, topic: str, message: object, time_ns: int) -> None:
        """Appends a message made of `types`. time_ns: when it was received."""
        connection = self._connection(topic)
        self.write_serialized(topic, self.typestore.serialize_cdr(message, connection.msgtype), time_ns)

    def write_serialized(self, topic: str, data: bytes | memoryview, time_ns: int) -> None:
        """Appends a message in CDR, as it came from a raw subscription. time_ns: when it was received."""
        connection = self._connection(topic)
        if not self._open:
            raise RecordingError(f"the bag {self.path} is closed")
        if not 0 <= time_ns < 1 << 63:
            raise RecordingError(f"a message of {topic} cannot be recorded at {time_ns} ns: bags count from 0 on")
        try:
            self._writer.write(connection, time_ns, data)
            self.counts[topic] += 1
        except OSError as error:
            raise self._cannot_write(error) from error
        if time.monotonic() - self._flushed > FLUSH_PERIOD_S:
            self.flush()

    def flush(self) -> None:
        """Hands what was written to the operating system, in a form that is readable even if nothing follows."""
        if not self._open:
            return
        try:
            self._writer.flush()
        except OSError as error:
            raise self._cannot_write(error) from error
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Finishes the bag; closing again does nothing. Raises RecordingError where the disk is full."""
        if not self._open:
            return
        self._open = False
        try:
            self._writer.close()
            if self._single:
                next(self._folder.glob("*.mcap")).replace(self.path)
                shutil.rmtree(self._folder)
        except OSError as error:
            with suppress(OSError):  # it tries to write the rest once more, onto a disk that is still full
                self._writer.abort()
            reason = self._failure or error.strerror
            raise RecordingError(
                f"the bag {self.path} could not be finished ({reason}): what was written is in {self._folder}"
            ) from error
        finally:
            os.close(self._lock)

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cannot_write(self, error: OSError) -> RecordingError:
        self._failure = self._failure or error.strerror
        return RecordingError(f"cannot write to the bag {self.path}: {error.strerror}")

    def _connection(self, topic: str) -> Connection:
        if topic not in self._connections:
            raise RecordingError(f"{topic} was not added to the bag {self.path}: call add_topic first")
        return self._connections[topic]

    def _make_room(self, overwrite: bool) -> None:
        for existing in {self.path, self._folder}:
            if not existing.exists():
                continue
            if not overwrite:
                raise RecordingError(f"{existing} exists already: choose another name, or allow overwriting")
            if existing.is_dir():
                os.close(_locked(existing))
                if not _is_only_a_bag(existing):
                    raise RecordingError(f"{existing} holds more than a bag and is kept: choose another name")
                shutil.rmtree(existing)
            elif existing == self._folder:  # a single file stays until the new one takes its place
                existing.unlink()


def _locked(folder: Path) -> int:
    """A file descriptor that keeps others from writing there until it is closed. Raises RecordingError."""
    held = os.open(folder, os.O_RDONLY)
    try:
        keep_others_away(held, folder)
    except RecordingError:
        os.close(held)
        raise
    return held


def _is_only_a_bag(folder: Path) -> bool:
    """Whether deleting this folder deletes nothing but a recording."""
    return all(p.is_file() and (p.suffix in (".mcap", ".db3") or p.name == "metadata.yaml") for p in folder.iterdir())


class _FlushingMcap(McapWriter):
    """rosbags' MCAP storage, which otherwise keeps up to a MiB in memory."""

    def flush(self) -> None:
        if self.chunk.msgs:
            self.close_chunk()
        self.bio.flush()


class _Writer(Writer):
    """rosbags' writer with that storage."""

    STORAGE_PLUGINS = {**Writer.STORAGE_PLUGINS, StoragePlugin.MCAP: _FlushingMcap}

    def flush(self) -> None:
        if isinstance(self.storage, _FlushingMcap):
            self.storage.flush()
