"""Where frames are at an instant, from /tf and /tf_static.

tf2_ros's buffer and listener, and tf_transformations, are used where a ROS distribution provides them; the stand-ins do
the same for the one question that the node asks: `lookup_transform` at a time that is known, interpolated, never
extrapolated.
"""

from __future__ import annotations

import math
import threading
import time as wall_time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from wildhands_ros.errors import WildHandsError
from wildhands_ros.node.messages import stamp_ns
from wildhands_ros.node.qos import TF_OUTPUT
from wildhands_ros.rigid import FloatArray, RigidTransform
from wildhands_ros.rotations import matrix_from_quaternion, quaternion_from_matrix

try:
    from tf_transformations import quaternion_matrix
except (ImportError, AttributeError):  # AttributeError: its transforms3d was made for another numpy
    quaternion_matrix = None

CACHE_S = 10.0
"""How long transforms are remembered; tf2's default."""

_CACHE_NS = round(CACHE_S * 1e9)
_DEEPEST = 1000  # frames from a leaf to the root; more is a loop
_LATE_S = 1.0  # longer than this, also on a busy machine, no transform is on its way to a buffer
_MOST_HELD = 10_000  # transforms in that time; robots send some thousands a second
_AT_ONCE_S = 0.1  # neither buffer can be told to stop waiting, so it waits for no longer than this at once


class TransformError(WildHandsError):
    """A transform that TF cannot give: unknown or unconnected frames, or a time for which there is no data."""


class Buffer(Protocol):
    """What answers; tf2_ros.Buffer is one, `TransformBuffer` another."""

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Adds one of /tf."""
        ...

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Adds one of /tf_static."""
        ...

    def lookup_transform(self, target_frame: str, source_frame: str, time: Time, timeout: Duration) -> TransformStamped:
        """The pose of the source frame in the target frame at that time; time 0: the latest that is known."""
        ...

    def clear(self) -> None:
        """Forgets everything but the static transforms."""
        ...


class Listener(Protocol):
    """What fills a buffer; tf2_ros.TransformListener is one."""

    def unregister(self) -> None:
        """Stops listening."""
        ...


class TransformBuffer:
    """Transforms of the last seconds. Thread-safe.

    The frames form a tree: each has one parent at a time, and is a moving or a static one, as it was sent last. A
    moving frame's transform lies between two that were received, never before the first or after the last. A slash with
    which a name begins, as in ROS 1, does not count. Transforms are remembered for `CACHE_S`, counted back from the
    newest of the same frame.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._moving: dict[str, _Track] = {}
        self._static: dict[str, _Sample] = {}

    def set_transform(self, transform: TransformStamped, authority: str = "") -> None:
        """Adds one of /tf."""
        child, sample = _unslashed(transform.child_frame_id), _sample(transform)
        if sample is None:
            return
        with self._changed:
            self._static.pop(child, None)
            track = self._moving.setdefault(child, _Track())
            track.add(stamp_ns(transform.header.stamp), sample)
            self._changed.notify_all()

    def set_transform_static(self, transform: TransformStamped, authority: str = "") -> None:
        """Adds one of /tf_static: it holds at every time."""
        child, sample = _unslashed(transform.child_frame_id), _sample(transform)
        if sample is None:
            return
        with self._changed:
            self._moving.pop(child, None)
            self._static[child] = sample
            self._changed.notify_all()

    def clear(self) -> None:
        """Forgets all moving frames: time has jumped. Static ones hold at every time, and are not sent again."""
        with self._changed:
            self._moving.clear()

    def lookup_transform(
        self, target_frame: str, source_frame: str, time: Time, timeout: Duration | None = None
    ) -> TransformStamped:
        """The pose of the source frame in the target frame at that time; time 0: the latest common one.

        Waits for it until the timeout is over (wall time). Raises TransformError saying what is missing.
        """
        deadline = wall_time.monotonic() + (0 if timeout is None else timeout.nanoseconds * 1e-9)
        at_ns = time.nanoseconds
        with self._changed:
            while True:
                try:
                    when = at_ns or self._latest_common(target_frame, source_frame)
                    found = self._lookup(target_frame, source_frame, when)
                    break
                except TransformError:
                    remaining = deadline - wall_time.monotonic()
                    if remaining <= 0 or not self._changed.wait(remaining):
                        raise
        return _message(found, target_frame, source_frame, when)

    def _lookup(self, target: str, source: str, at_ns: int) -> RigidTransform:
        up_source, stop_source = self._ascent(source, at_ns)
        up_target, stop_target = self._ascent(target, at_ns)
        common = next((frame for frame in up_source if frame in up_target), None)
        if common is not None:
            return up_target[common].inverse() @ up_source[common]
        for frame in (target, source):
            if not self._knows(frame):
                raise TransformError(f"the frame '{frame}' is not known to TF")
        missing = stop_source or stop_target
        if missing is not None:
            raise TransformError(missing)
        raise TransformError(f"'{source}' and '{target}' are not in one tree of TF frames")

    def _ascent(self, frame: str, at_ns: int) -> tuple[dict[str, RigidTransform], str | None]:
        """The pose of `frame` in itself and in each of its ancestors, and why the ascent ended before the root."""
        pose = RigidTransform(np.eye(3), np.zeros(3))
        poses = {frame: pose}
        for _ in range(_DEEPEST):
            try:
                above = self._at(frame, at_ns)
            except TransformError as error:
                return poses, str(error)
            if above is None:
                return poses, None
            frame, place = above
            pose = place @ pose
            if frame in poses:
                return poses, f"the TF frames form a loop at '{frame}'"
            poses[frame] = pose
        return poses, f"the TF frames form a loop at '{frame}'"

    def _at(self, frame: str, at_ns: int) -> _Place | None:
        if frame in self._static:
            return self._static[frame].place
        track = self._moving.get(frame)
        return None if track is None else track.at(frame, at_ns)

    def _latest_common(self, target: str, source: str) -> int:
        """The newest time for which everything above both frames is known; 0 where all of it is static."""
        stamps = []
        for start in (target, source):
            frame = start
            for _ in range(_DEEPEST):
                if frame in self._static:
                    frame = self._static[frame].parent
                elif frame in self._moving:
                    stamps.append(self._moving[frame].stamps[-1])
                    frame = self._moving[frame].samples[-1].parent
                else:
                    break
        return min(stamps, default=0)

    def _knows(self, frame: str) -> bool:
        tracks = self._moving.values()
        return (
            frame in self._static
            or frame in self._moving
            or any(sample.parent == frame for sample in self._static.values())
            or any(sample.parent == frame for track in tracks for sample in track.samples[-1:])
        )


class Sieve:
    """Passes on to a buffer what a listener hears, except late transforms from before a jump of time. Thread-safe.

    Where time has jumped back (a bag that loops), transforms from before the jump may still be on their way. The buffer
    would take one of them for the newest, and then discard all others as too old until time has caught up. They are
    held back and not dropped, as time may not have jumped after all (an image with a wrong stamp).

    clock: seconds, monotonic.
    """

    def __init__(self, buffer: Buffer, clock: Callable[[], float] = wall_time.monotonic) -> None:
        self.buffer = buffer
        self._clock = clock
        self._lock = threading.Lock()
        self._jumped_at = -math.inf
        self._newest_ns = 0
        self._held: deque[tuple[TransformStamped, str]] = deque(maxlen=_MOST_HELD)

    def set_transform(self, transform: TransformStamped, authority: str = "") -> None:
        """Adds one of /tf."""
        with self._lock:
            if self._may_be_late() and stamp_ns(transform.header.stamp) > self._newest_ns:
                self._held.append((transform, authority))
            else:
                self.buffer.set_transform(transform, authority)

    def set_transform_static(self, transform: TransformStamped, authority: str = "") -> None:
        """Adds one of /tf_static: it holds at every time."""
        self.buffer.set_transform_static(transform, authority)

    def time_jumped(self, before_ns: int, after_ns: int) -> None:
        """Forgets the moving frames. For a while, stamps nearer to the time before than to that after count as late.

        Not so after a jump shorter than a buffer's memory: then late transforms keep no others out.
        """
        with self._lock:
            self.buffer.clear()
            self._held.clear()
            if before_ns - after_ns > _CACHE_NS:
                self._jumped_at, self._newest_ns = self._clock(), (before_ns + after_ns) // 2

    def time_goes_on(self, now_ns: int) -> None:
        """The time is now `now_ns`. Where that is from before the jump again, passes on what was held back."""
        with self._lock:
            if not self._may_be_late():
                self._held.clear()
            elif now_ns > self._newest_ns:
                self._jumped_at = -math.inf
                while self._held:
                    self.buffer.set_transform(*self._held.popleft())

    def _may_be_late(self) -> bool:
        return self._clock() - self._jumped_at < _LATE_S


class TransformListener:
    """Passes on /tf and /tf_static, as tf2_ros.TransformListener does."""

    def __init__(self, buffer: Sieve, node: Node) -> None:
        self._node = node
        self._buffer = buffer
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        group = ReentrantCallbackGroup()
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", self._take, TF_OUTPUT, callback_group=group),
            node.create_subscription(TFMessage, "/tf_static", self._take_static, latched, callback_group=group),
        ]

    def unregister(self) -> None:
        """Stops listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _take(self, message: TFMessage) -> None:
        for transform in message.transforms:
            self._buffer.set_transform(transform)

    def _take_static(self, message: TFMessage) -> None:
        for transform in message.transforms:
            self._buffer.set_transform_static(transform)


class TransformLookup:
    """Asks TF; tf2_ros where there is one, else the stand-in."""

    def __init__(self, sieve: Sieve, listener: Listener) -> None:
        """sieve: of the buffer to ask; what the listener hears goes through it."""
        self._sieve = sieve
        self._listener = listener

    @classmethod
    def listening(cls, node: Node) -> TransformLookup:
        """One that hears /tf and /tf_static from now on."""
        try:
            import tf2_ros
        except ImportError:
            sieve = Sieve(TransformBuffer())
            return cls(sieve, TransformListener(sieve, node))
        sieve = Sieve(tf2_ros.Buffer(cache_time=Duration(seconds=CACHE_S)))
        return cls(sieve, tf2_ros.TransformListener(sieve, node))

    def __call__(
        self, target: str, source: str, at_ns: int, timeout_s: float, given_up: threading.Event | None = None
    ) -> RigidTransform:
        """What takes coordinates in the source frame to the target frame at that time (integer nanoseconds).

        Waits at most timeout_s, and not once it is given up. Raises TransformError saying what is missing.
        """
        deadline = wall_time.monotonic() + timeout_s
        while True:
            left = max(deadline - wall_time.monotonic(), 0.0)
            try:
                return self._found(target, source, at_ns, min(left, _AT_ONCE_S))
            except TransformError:
                if left <= _AT_ONCE_S or (given_up is not None and given_up.is_set()):
                    raise

    def _found(self, target: str, source: str, at_ns: int, timeout_s: float) -> RigidTransform:
        timeout = Duration(nanoseconds=round(timeout_s * 1e9))
        try:
            found = self._sieve.buffer.lookup_transform(target, source, Time(nanoseconds=at_ns), timeout).transform
        except TransformError:
            raise
        except Exception as error:  # tf2_ros's come from a C extension; whatever it is, there is no transform
            raise TransformError(str(error)) from error
        place, turn = found.translation, found.rotation
        rotation = _rotation([turn.x, turn.y, turn.z, turn.w])
        return RigidTransform(rotation, np.array([place.x, place.y, place.z]))

    def time_jumped(self, before_ns: int, after_ns: int) -> None:
        """Forgets what was heard before time jumped from `before_ns` to `after_ns`."""
        self._sieve.time_jumped(before_ns, after_ns)

    def time_goes_on(self, now_ns: int) -> None:
        """Tells the time, where only images know it: takes back the jump that one with a wrong stamp seemed to be."""
        self._sieve.time_goes_on(now_ns)

    def close(self) -> None:
        """Stops listening."""
        self._listener.unregister()


_Place: TypeAlias = tuple[str, RigidTransform]
"""The frame above another one, and the pose in it."""


@dataclass(frozen=True)
class _Sample:
    """As it came: thousands come in a second, of which hardly any is asked for."""

    parent: str
    translation: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]  # x, y, z, w; about a unit one

    @property
    def place(self) -> _Place:
        pose = RigidTransform(matrix_from_quaternion(np.array(self.quaternion)), np.array(self.translation))
        return self.parent, pose


@dataclass
class _Track:
    """One moving frame's transforms by ascending time."""

    stamps: list[int] = field(default_factory=list)
    samples: list[_Sample] = field(default_factory=list)

    def add(self, at_ns: int, sample: _Sample) -> None:
        if self.stamps and at_ns < self.stamps[-1] - _CACHE_NS:
            return  # too old; where time has jumped back, the buffer is cleared
        place = bisect_left(self.stamps, at_ns)
        if place < len(self.stamps) and self.stamps[place] == at_ns:
            self.samples[place] = sample
        else:
            self.stamps.insert(place, at_ns)
            self.samples.insert(place, sample)
        too_old = bisect_left(self.stamps, self.stamps[-1] - _CACHE_NS)
        del self.stamps[:too_old], self.samples[:too_old]

    def at(self, frame: str, at_ns: int) -> _Place:
        place = bisect_left(self.stamps, at_ns)
        if place < len(self.stamps) and self.stamps[place] == at_ns:
            return self.samples[place].place
        if place == len(self.stamps):
            raise TransformError(
                f"the newest transform of '{frame}' is {(at_ns - self.stamps[-1]) * 1e-9:.3f} s older than the image, "
                "and TF is not extrapolated: its publisher is late or has stopped"
            )
        if place == 0:
            raise TransformError(
                f"the oldest transform of '{frame}' is {(self.stamps[0] - at_ns) * 1e-9:.3f} s newer than the image: "
                "the image is very late, or its clock is another one (use_sim_time with --clock for a bag)"
            )
        (parent, before), (new_parent, after) = self.samples[place - 1].place, self.samples[place].place
        if parent != new_parent:  # it was hung elsewhere in between
            return parent, before
        start, end = self.stamps[place - 1], self.stamps[place]
        return parent, before.towards(after, (at_ns - start) / (end - start))


def _sample(transform: TransformStamped) -> _Sample | None:
    """None for an invalid one: nameless, its own parent, not finite, or of a quaternion far from unit length."""
    parent, child = _unslashed(transform.header.frame_id), _unslashed(transform.child_frame_id)
    place, turn = transform.transform.translation, transform.transform.rotation
    translation, quaternion = (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w)
    finite = all(map(math.isfinite, translation))
    if not parent or not child or parent == child or not finite or not 0.5 < math.hypot(*quaternion) < 2:
        return None
    return _Sample(parent, translation, quaternion)


def _unslashed(name: str) -> str:
    return name.removeprefix("/")


def _message(found: RigidTransform, target: str, source: str, at_ns: int) -> TransformStamped:
    message = TransformStamped(child_frame_id=source)
    message.header.frame_id = target
    message.header.stamp = Time(nanoseconds=at_ns).to_msg()
    place, turn = message.transform.translation, message.transform.rotation
    place.x, place.y, place.z = found.translation.tolist()
    turn.x, turn.y, turn.z, turn.w = quaternion_from_matrix(found.rotation).tolist()
    return message


def _rotation(quaternion: list[float]) -> FloatArray:
    """x, y, z, w → (3, 3)."""
    if quaternion_matrix is None:
        return matrix_from_quaternion(quaternion)
    return np.asarray(quaternion_matrix(quaternion), dtype=np.float64)[:3, :3]
