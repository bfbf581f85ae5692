"""Topics and message types by the names that users give them."""

from __future__ import annotations

from importlib import import_module

from rclpy.node import Node

from wildhands_ros.errors import RecordingError


def resolved_topic(node: Node, name: str) -> str:
    """The whole name of a topic. Raises RecordingError for what cannot be one."""
    try:
        return node.resolve_topic_name(name)
    except Exception as error:  # rclpy has several kinds for it, and another one in each distribution
        raise RecordingError(f"'{name}' cannot be a topic's name: {str(error).splitlines()[0]}") from error


def message_class(msgtype: str) -> type | None:
    """The Python class of a message type such as "sensor_msgs/msg/Image"; None where it is not installed."""
    try:
        package, _, name = msgtype.split("/")
        found: type = getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError, TypeError, ValueError):  # TypeError: before the first slash is nothing
        return None
    return found
