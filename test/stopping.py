"""Processes that are told to stop twice in a row: `python stopping.py COUNT`; prints their exit codes as JSON.

The first that is not 0 is the last: what hangs takes long. Each process has many executors, which makes it likely that
rclpy still wakes some of them while others are destroyed.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import rclpy
from rclpy.executors import ExternalShutdownException

from wildhands_ros.node.executor import NodeExecutor
from wildhands_ros.node.signals import ignore_signals

_EXECUTORS = 40
_HANGS_S = 600  # a stalled machine is no failure: beside many other processes each takes tens of seconds


def _spin_until_stopped() -> None:
    rclpy.init(args=[])
    executors = [NodeExecutor() for _ in range(_EXECUTORS)]
    process = os.getpid()
    if os.fork() == 0:
        for _ in range(2):
            os.kill(process, signal.SIGINT)
        os._exit(0)
    try:
        executors[0].spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        ignore_signals()
        for executor in executors:
            executor.shutdown()
        rclpy.try_shutdown()


def _code() -> int:
    child = os.fork()
    if child == 0:
        signal.alarm(_HANGS_S)  # one that hangs ends with SIGALRM
        try:
            _spin_until_stopped()
        except KeyboardInterrupt:  # the second signal came before they were ignored
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    codes: list[int] = []
    while len(codes) < int(sys.argv[1]) and not any(codes):
        codes.append(_code())
    print(json.dumps(codes))
