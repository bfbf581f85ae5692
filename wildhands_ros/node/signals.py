"""Ends processes without a crash, however often they are told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import rclpy
from rclpy.node import Node
from rclpy.signals import uninstall_signal_handlers

from wildhands_ros.node.executor import NodeExecutor


def spin_until_stopped(node: Node) -> None:
    """Handles a node's callbacks until the process is told to stop, and ends ROS."""
    executor = NodeExecutor(context=node.context)  # rclpy's own fails where a callback publishes as that happens
    executor.add_node(node)
    try:
        executor.spin()
    except KeyboardInterrupt:
        pass
    finally:
        ignore_signals()
        executor.shutdown()
        rclpy.try_shutdown()


def call_on_signals(callback: Callable[[], None]) -> None:
    """Makes Ctrl-C and SIGTERM call `callback` and do nothing else, however often they come (launch sends two).

    In a thread of its own, because a signal handler interrupts code that may hold the very lock it needs.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: threading.Thread(target=callback, daemon=True).start())


def ignore_signals() -> None:
    """From now on SIGINT and SIGTERM do nothing, and rclpy is done with those that came.

    To be called by the main thread before executors and nodes are destroyed. rclpy (9.1) takes signals in a thread of
    its own, which wakes every executor through a list that another thread may just be taking apart: a process told to
    stop, above all twice as `ros2 launch` and the terminal together do it, now and then ended with SIGSEGV or SIGABRT.
    """
    try:
        _ignore()
    except KeyboardInterrupt:  # told once more, just before
        _ignore()
    uninstall_signal_handlers()  # joins that thread
    _ignore()  # some versions of it restore the handlers from before rclpy's


def _ignore() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
