"""Spinning nodes: quick callbacks at once, slow ones beside them; and in a thread of their own."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.task import Task

_LOOK_S = 0.5  # how often a spinning executor looks whether ROS has been shut down
_SLOW_AT_ONCE = 4  # more than there are groups, so that none has to wait for a thread


class SlowCallbackGroup(MutuallyExclusiveCallbackGroup):
    """For callbacks that take long: `NodeExecutor` runs them in threads of their own."""


class NodeExecutor(SingleThreadedExecutor):
    """Runs callbacks in the thread that spins, but those of a `SlowCallbackGroup` in threads of their own.

    So services, parameters and diagnostics answer while models are loaded or a capture is written, as they do with
    rclpy's MultiThreadedExecutor; but that hands every image and camera_info to another thread and spins meanwhile,
    which costs several times as much as receiving them.

    on_failure: takes what the callback of a subscription or a service raises, which `spin` then does not raise: a
    message from outside must not end the node (a set_parameters request with a type that does not exist makes rclpy
    raise).
    """

    def __init__(
        self, *, context: Context | None = None, on_failure: Callable[[Exception], None] | None = None
    ) -> None:
        super().__init__(context=context)
        self._on_failure = on_failure
        self._pool = ThreadPoolExecutor(_SLOW_AT_ONCE, thread_name_prefix="wildhands-slow")
        self._slow: dict[Task[None], tuple[object, Future[None]]] = {}
        self._ending = threading.Condition()
        self._under_way = 0  # slow callbacks
        self._ended = False

    def spin(self) -> None:
        """Spins until the context or this executor is shut down. Raises what a callback raises.

        Goes on where a transition destroys an entity that is just about to be waited for.
        """
        ended, waking = threading.Event(), threading.Lock()
        try:
            # no threading.Thread, whose start waits for it: two signals meanwhile end that wait with a RuntimeError
            _thread.start_new_thread(self._wake_at_shutdown, (ended, waking))
            self._spin()
        finally:
            ended.set()
            waking.acquire()  # for good: what it uses, `shutdown` destroys

    def _wake_at_shutdown(self, ended: threading.Event, waking: threading.Lock) -> None:
        """Ends a waiting that rclpy forgets to end.

        At a signal it (9.1) wakes its executors first and shuts ROS down then: one that has begun to wait again in
        between waits for ever, if no timer ends it.
        """
        while not ended.wait(_LOOK_S):
            if waking.acquire(blocking=False):
                if not self._context.ok():
                    self.wake()
                waking.release()

    def _spin(self) -> None:
        while self._context.ok() and not self._ended:  # not rclpy's loop, which since 2026 goes past `spin_once`
            try:
                self.spin_once()
            except InvalidHandle:
                continue
            except _rclpy.RCLError:
                if self._context.ok():  # else a signal has shut it down just now, and nothing can be waited for
                    raise

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Waits for one callback, and runs it or has it run. Raises what one raises."""
        try:
            task, entity, _node = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
        except (ShutdownException, ExternalShutdownException, TimeoutException):
            return
        if not isinstance(getattr(entity, "callback_group", None), SlowCallbackGroup):
            task()
            self._look_after(task, entity)
        elif task not in self._slow:  # one that has not begun yet is offered again
            with self._ending:  # not told by `_slow`: a signal may interrupt this line in its middle
                self._under_way += 1
            self._slow[task] = entity, self._pool.submit(self._run_slow, task)
        for done in [task for task, (_entity, future) in self._slow.items() if future.done()]:
            entity, _future = self._slow.pop(done)
            self._look_after(done, entity)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Waits for running callbacks; False where they go on after that many seconds (None: waits for ever)."""
        self._ended = True
        finished = bool(super().shutdown(timeout_sec))  # of rclpy 9.1, it waits for nothing
        with self._ending:
            finished = self._ending.wait_for(lambda: not self._under_way, timeout_sec) and finished
        self._pool.shutdown(wait=finished)
        for task in self._slow:  # nothing waits for these now, and rclpy complains of exceptions nobody retrieved
            if task.done():
                task.exception()
        return finished

    def _run_slow(self, task: Task[None]) -> None:
        try:
            task()
        finally:
            with self._ending:
                self._under_way -= 1
                self._ending.notify_all()

    def _look_after(self, task: Task[None], entity: object) -> None:
        error = task.exception() if task.done() else None
        if error is None:
            return
        from_outside = isinstance(entity, (Service, Subscription)) and not isinstance(error, InvalidHandle)
        if self._on_failure is None or not from_outside or not isinstance(error, Exception):
            raise error
        self._on_failure(error)


class SpinningThread:
    """Handles one node's callbacks in a thread of its own, from construction until `stop`.

    on_failure: takes what a callback raises, which ends the spinning; without it, the thread dies of the exception.
        That the node's context is shut down ends it as well, and is no failure.
    """

    def __init__(self, node: Node, name: str, on_failure: Callable[[Exception], None] | None = None) -> None:
        self._context, self._on_failure = node.context, on_failure
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._asked = threading.Event()
        self._failed = False
        self._end = node.create_guard_condition(self._asked.set)
        self._thread = threading.Thread(target=self._guarded, args=(self._spin,), name=name, daemon=True)
        self._thread.start()

    def stop(self, finish_s: float = 0.0) -> None:
        """Returns when the callback that runs, if one does, is done. Later calls do nothing.

        finish_s: first handle what has already come, and what comes meanwhile, for at most so long.
        """
        try:
            self._end.trigger()
        except InvalidHandle:  # the node has been destroyed, as a context that is shut down does, and the thread ends
            pass
        self._thread.join()
        self._guarded(self._finish, time.monotonic() + finish_s)
        # not before: rclpy's `shutdown` destroys what the thread may just be about to use, and waits for nothing. A
        # message that it had already taken was lost then, with an InvalidHandle
        self._executor.shutdown()

    def _spin(self) -> None:
        while self._context.ok() and not self._asked.is_set():
            self._executor.spin_once()

    def _finish(self, until: float) -> None:
        came = True
        while self._context.ok() and not self._failed and time.monotonic() < until:
            try:
                task, _entity, _node = self._executor.wait_for_ready_callbacks(timeout_sec=0)
            except ShutdownException:
                return
            except TimeoutException:  # after every look, also where something had come
                if not came:
                    return
                came = False
                continue
            came = True
            task()
            if task.done() and (error := task.exception()) is not None:
                raise error

    def _guarded(self, run: Callable[..., None], *args: float) -> None:
        try:
            run(*args)
        except ExternalShutdownException:
            pass
        except Exception as error:
            if isinstance(error, (InvalidHandle, _rclpy.RCLError)) and not self._context.ok():
                return  # shut down just before it was waited for
            self._failed = True
            if self._on_failure is None:
                raise
            self._on_failure(error)
