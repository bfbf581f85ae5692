"""Message definitions for bags: of this package, of common ROS packages, and of others that are installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

import wildhands_ros
from wildhands_ros.errors import RecordingError

PACKAGE = "wildhands_ros"
_TYPE_NAME = re.compile(r"[A-Za-z]\w*/msg/[A-Za-z]\w*")

HAND_POSE_ARRAY = "wildhands_ros/msg/HandPoseArray"


def message_definitions() -> dict[str, str]:
    """This package's message types ("wildhands_ros/msg/HandPose") and the text of their .msg files."""
    for folder in _own_message_folders():
        files = sorted(folder.glob("*.msg"))
        if files:
            return {f"{PACKAGE}/msg/{file.stem}": file.read_text(encoding="utf-8") for file in files}
    raise RecordingError("the message definitions (HandPose.msg, ...) are missing: reinstall wildhands_ros")


def make_typestore() -> Typestore:
    """A new typestore with the types of a ROS 2 distribution and ours."""
    store = get_typestore(Stores.ROS2_KILTED)
    for name, text in message_definitions().items():
        store.register({k: v for k, v in get_types_from_msg(text, name).items() if k not in store.fielddefs})
    return store


def learn_installed_type(store: Typestore, msgtype: str) -> bool:
    """Adds a type, and the types of its fields, from the .msg files of installed ROS packages. False: not found."""
    if msgtype in store.fielddefs:
        return True
    if not _TYPE_NAME.fullmatch(msgtype):
        return False
    package, _, name = msgtype.split("/")
    for prefix in _prefixes():
        file = prefix / "share" / package / "msg" / f"{name}.msg"
        if file.is_file():
            break
    else:
        return False
    try:
        types = get_types_from_msg(file.read_text(encoding="utf-8"), msgtype)
    except TypesysError:
        return False
    for needed in _names_in(types[msgtype][1]):
        if not learn_installed_type(store, needed):
            return False
    store.register({k: v for k, v in types.items() if k not in store.fielddefs})
    return True


def _names_in(fields: object) -> Iterator[str]:
    """The message types that a parsed definition's fields mention."""
    if isinstance(fields, str):
        if fields.count("/") == 2:
            yield fields
    elif isinstance(fields, (list, tuple)):
        for part in fields:
            yield from _names_in(part)


def _own_message_folders() -> Iterator[Path]:
    yield Path(__file__).resolve().parents[2] / "msg"  # the source tree
    for prefix in _prefixes():
        yield prefix / "share" / PACKAGE / "msg"


def _prefixes() -> Iterator[Path]:
    """Installation prefixes: those ament knows, and the folders above this package."""
    try:
        from ament_index_python import get_search_paths
    except ImportError:  # no ROS here
        pass
    else:
        try:
            yield from (Path(p) for p in get_search_paths())
        except (LookupError, OSError):  # AMENT_PREFIX_PATH is not set
            pass
    for entry in wildhands_ros.__path__:
        yield from Path(entry).resolve().parents
