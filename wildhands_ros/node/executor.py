"""Spinning the node: quick callbacks at once, slow ones beside them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.task import Task

_SLOW_AT_ONCE = 4  # more than there are groups, so that none has to wait for a thread


class SlowCallbackGroup(MutuallyExclusiveCallbackGroup):
    """For callbacks that take long: `NodeExecutor` runs them in threads of their own."""


class NodeExecutor(SingleThreadedExecutor):
    """Runs callbacks in the thread that spins, but those of a `SlowCallbackGroup` in threads of their own.

    So services, parameters and diagnostics answer while models are loaded or a capture is written, as they do with
    rclpy's MultiThreadedExecutor; but that hands every image and camera_info to another thread and spins meanwhile,
    which costs several times as much as receiving them.
    """

    def __init__(self, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._pool = ThreadPoolExecutor(_SLOW_AT_ONCE, thread_name_prefix="wildhands-slow")
        self._slow: dict[Task[None], Future[None]] = {}

    def spin(self) -> None:
        """Until the context is shut down, also where a transition destroys what is just about to be waited for.

        Raises what a callback raises.
        """
        while True:
            try:
                return super().spin()
            except InvalidHandle:
                continue

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Waits for one callback, and runs it or has it run. Raises what one raises."""
        try:
            task, entity, _node = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
        except (ShutdownException, ExternalShutdownException, TimeoutException):
            return
        if not isinstance(getattr(entity, "callback_group", None), SlowCallbackGroup):
            task()
            _raise_from(task)
        elif task not in self._slow:  # one that has not begun yet is offered again
            self._slow[task] = self._pool.submit(task)
        for done in [task for task, future in self._slow.items() if future.done()]:
            del self._slow[done]
            _raise_from(done)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Waits for running callbacks."""
        finished = bool(super().shutdown(timeout_sec))
        self._pool.shutdown()
        return finished


def _raise_from(task: Task[None]) -> None:
    error = task.exception() if task.done() else None
    if error is not None:
        raise error
