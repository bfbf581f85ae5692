"""A bond with a lifecycle manager, where the ROS distribution has bondpy: each side learns when the other dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node

_TOPIC = "bond"  # relative, as Nav2's: a manager and its nodes share a namespace
_HEARTBEAT_TIMEOUT_S = 4.0  # Nav2's


class Bond:
    """A bond that has begun. The other side, of the same name on the same topic, is told when this one ends."""

    def __init__(self, node: Node, ros_bond: Any) -> None:
        """ros_bond: a started `bondpy.bondpy.Bond` of the node."""
        self._node = node
        self._bond = ros_bond

    def shutdown(self) -> None:
        """Breaks the bond and withdraws its publisher and subscription."""
        try:
            self._bond.shutdown()
        except Exception:  # its last message, where ROS was shut down first: the other side notices the silence
            if self._node.context.ok():
                raise
        finally:
            # bondpy destroys both without telling the node, which would keep them in its lists
            self._node.destroy_publisher(self._bond.pub)
            self._node.destroy_subscription(self._bond.sub)


def open_bond(node: Node, period_s: float, on_missing: Callable[[str], None]) -> Bond | None:
    """A bond as Nav2's lifecycle manager expects it: on the topic `bond`, under the node's name.

    None where no bond is wanted (period 0), or bondpy is not installed, which `on_missing` is told.
    """
    if period_s <= 0:
        return None
    try:
        from bondpy.bondpy import Bond as RosBond
    except ImportError:
        on_missing(
            f"bond_heartbeat_period is {period_s:g}, but bondpy is not installed: install it (apt install "
            "ros-$ROS_DISTRO-bondpy), or set the period to 0 and the lifecycle manager's bond_timeout too"
        )
        return None
    bond = RosBond(node, _TOPIC, node.get_name())
    bond.heartbeat_period = period_s
    bond.heartbeat_timeout = _HEARTBEAT_TIMEOUT_S
    bond.start()
    return Bond(node, bond)
