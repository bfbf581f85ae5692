"""A bond with a lifecycle manager, where the ROS distribution has bondpy: each side learns when the other dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rclpy.node import Node

_TOPIC = "/bond"
_HEARTBEAT_TIMEOUT_S = 4.0  # Nav2's


class Bond(Protocol):
    """The part of bondpy's Bond that is used here."""

    def shutdown(self) -> None:
        """Breaks the bond and stops."""
        ...


def open_bond(node: Node, period_s: float, on_missing: Callable[[str], None]) -> Bond | None:
    """A bond as Nav2's lifecycle manager expects it: on /bond, under the node's name.

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
    bond = RosBond(_TOPIC, node.get_name(), node)
    bond.heartbeat_period = period_s
    bond.heartbeat_timeout = _HEARTBEAT_TIMEOUT_S
    bond.start()
    return bond
