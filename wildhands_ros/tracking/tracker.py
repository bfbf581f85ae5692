"""Keeps each hand's identity over time, marks impossible motion, and smooths where asked."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import ConfigError
from wildhands_ros.frames import StreamClock
from wildhands_ros.hand_model import HandModel
from wildhands_ros.hands import Hand, Side
from wildhands_ros.rotations import angle_between
from wildhands_ros.settings import check_types
from wildhands_ros.tracking.one_euro import OneEuro, OneEuroConfig, PlaceOneEuro, RotationOneEuro

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
PoseHand: TypeAlias = Callable[[Side, FloatArray, FloatArray, FloatArray], tuple[FloatArray, FloatArray]]

_LEAST_S = 1 / 30  # between pictures that lie closer together noise alone looks like speed
_IN_NO_TIME_NS, _TIMES_IN_NO_TIME = 100_000, 5  # no camera takes so many pictures at more than 10 kHz
_SHAPE_FILTER = OneEuroConfig(min_cutoff=0.1, beta=0.0)  # a person's hand does not change its shape


@dataclass(frozen=True)
class TrackingConfig:
    """How hands are kept apart over time.

    smooth: filter place, turn and pose with a One-Euro filter (adds lag; results are marked `smoothed`).
    min_cutoff: of the filter, for a hand at rest, Hz: lower is steadier.
    beta: Hz by which that rises with each rad/s of the direction in which the wrist is seen: higher lags less in
        motion. A third of it holds for its distance, a tenth for rotations.
    max_gap_s: a hand unseen for longer gets a new id when it comes back.
    reach_m: a hand that was lost is taken for the same if it reappears within this distance, plus what
        `max_speed_m_s` allows for half the gap, of which 0.2 s count at most; depth counts for a third.
    max_speed_m_s, max_turn_rad_s: faster changes of the wrist, over at least a thirtieth of a second, are marked as
        jumps.
    """

    smooth: bool = False
    min_cutoff: float = 1.5
    beta: float = 6.0
    max_gap_s: float = 1.0
    reach_m: float = 0.15
    max_speed_m_s: float = 6.0
    max_turn_rad_s: float = 40.0

    def __post_init__(self) -> None:
        check_types(self, "tracking.")
        OneEuroConfig(self.min_cutoff, self.beta)
        for name in ("max_gap_s", "reach_m", "max_speed_m_s", "max_turn_rad_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"tracking.{name} must be positive, not {getattr(self, name)}")


def _pose_by(hand_model: HandModel) -> PoseHand:
    return lambda side, pose, betas, translation: hand_model.layer(side).numpy(pose, betas, translation)


class _Track:
    """What is remembered of one hand."""

    def __init__(self, track_id: int, config: TrackingConfig) -> None:
        self.id = track_id
        self.last: Hand | None = None
        self.stamp_ns = 0
        self.sound: Hand | None = None  # the last valid one, and when it was
        self.sound_ns = 0
        self.start_filters(config)

    def start_filters(self, config: TrackingConfig) -> None:
        """New filters, which know nothing of the past."""
        rotation = OneEuroConfig(config.min_cutoff, config.beta / 10)
        self.wrist_filter = PlaceOneEuro(OneEuroConfig(config.min_cutoff, config.beta))
        self.pose_filter = RotationOneEuro(rotation)
        self.shape_filter = OneEuro(_SHAPE_FILTER)

    def copy(self) -> _Track:
        """One whose filters know the same and learn for themselves."""
        other = copy.copy(self)
        other.wrist_filter, other.pose_filter, other.shape_filter = copy.deepcopy(
            (self.wrist_filter, self.pose_filter, self.shape_filter)
        )
        return other


class HandTracker:
    """Gives hands stable ids. One instance per camera stream; not thread-safe.

    pose_hand: how pose, betas and translation of the hands become vertices and joints; by default as the model has it.
    """

    def __init__(self, config: TrackingConfig, hand_model: HandModel, pose_hand: PoseHand | None = None) -> None:
        self._config = config
        self._hand_model = hand_model
        self._pose_hand = pose_hand or _pose_by(hand_model)
        self._tracks: list[_Track] = []
        self._next_id = 0
        self._stamp_ns: int | None = None
        self._clock = StreamClock()
        self._in_no_time = 0  # pictures in a row
        self._warned = False

    def reset(self) -> None:
        """Forgets every hand; ids go on counting, so that an old id never means a new hand."""
        self._tracks = []
        self._stamp_ns = None
        self._clock = StreamClock()

    def configure(self, config: TrackingConfig) -> None:
        """Takes other settings from the next picture on; hands keep their ids, other filters start anew."""
        before, self._config = self._config, config
        if (config.smooth, config.min_cutoff, config.beta) != (before.smooth, before.min_cutoff, before.beta):
            self.smooth_anew()

    def smooth_anew(self) -> None:
        """From the next picture on, what is smoothed knows nothing of the past; hands keep their ids."""
        for track in self._tracks:
            track.start_filters(self._config)

    def update(self, hands: Sequence[Hand], stamp_ns: int, camera: Camera) -> tuple[list[Hand], list[Hand]]:
        """The raw hands of one picture with ids and jump flags, and the same smoothed (or the same list again).

        stamp_ns: when the picture was taken. Time that goes backwards resets the tracker; pictures of one
            time are taken for the same one sent again, but where stamps stand still, time goes on (`StreamClock`).
        """
        if self._config.smooth and stamp_ns == self._stamp_ns and not self._warned:
            self._warned = True
            logger.warning(
                "several pictures have the stamp %d ns, or came after newer ones: smoothing needs the time at which "
                "each was taken, and their order",
                stamp_ns,
            )
        self._look_at_unit(stamp_ns)
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            self.reset()
        self._stamp_ns = stamp_ns
        stamp_ns = self._clock(stamp_ns)
        self._tracks = [t for t in self._tracks if (stamp_ns - t.stamp_ns) * 1e-9 <= self._config.max_gap_s]

        raw = []
        smooth = []
        for hand, track in zip(hands, self._assign(hands, stamp_ns), strict=True):
            hand = replace(hand, track_id=track.id, jump=self._jumped(track, hand, stamp_ns))
            raw.append(hand)
            sound = hand.valid and bool(np.isfinite(hand.joints).all())
            if self._config.smooth:
                # what is not to be trusted must not live on in the hands that follow
                smooth.append(self._smoothed(track if sound else track.copy(), hand, stamp_ns, camera))
            track.last, track.stamp_ns = hand, stamp_ns
            if sound:
                track.sound, track.sound_ns = hand, stamp_ns
        return raw, smooth if self._config.smooth else raw

    def _look_at_unit(self, stamp_ns: int) -> None:
        """Warns of stamps in milli- or microseconds, by which smoothed hands would stand still."""
        if self._stamp_ns is None or stamp_ns == self._stamp_ns:
            return
        self._in_no_time = self._in_no_time + 1 if 0 < stamp_ns - self._stamp_ns < _IN_NO_TIME_NS else 0
        if self._config.smooth and self._in_no_time == _TIMES_IN_NO_TIME and not self._warned:
            self._warned = True
            logger.warning(
                "the last pictures are stamped only %d ns apart: stamps are nanoseconds (milliseconds times 10**6), "
                "and smoothing needs them",
                stamp_ns - self._stamp_ns,
            )

    def _assign(self, hands: Sequence[Hand], stamp_ns: int) -> list[_Track]:
        """A track for every hand: first those the detector followed, then the nearest lost one, else a new one."""
        assigned: dict[int, _Track] = {}
        free = list(self._tracks)
        for i, hand in enumerate(hands):
            if hand.follow_id < 0:
                continue
            for track in free:
                if track.last is not None and track.last.follow_id == hand.follow_id:
                    assigned[i] = track
                    free.remove(track)
                    break
        # a hand that was lost and found again: same side, close to where it was
        pairs = sorted(
            (distance, i, track.id)
            for i, hand in enumerate(hands)
            if i not in assigned
            for track in free
            if (distance := self._distance(track, hand, stamp_ns)) < 1
        )
        for _, i, track_id in pairs:
            match = next((t for t in free if t.id == track_id), None)
            if i not in assigned and match is not None:
                assigned[i] = match
                free.remove(match)
        for i in range(len(hands)):
            if i not in assigned:
                track = _Track(self._next_id, self._config)
                self._next_id += 1
                self._tracks.append(track)
                assigned[i] = track
        return [assigned[i] for i in range(len(hands))]

    def _distance(self, track: _Track, hand: Hand, stamp_ns: int) -> float:
        """How far a hand is from where a lost one may be by now, in units of the farthest that is allowed."""
        if track.last is None or track.last.side is not hand.side:
            return np.inf
        gap_s = (stamp_ns - track.stamp_ns) * 1e-9
        allowed = self._config.reach_m + 0.5 * self._config.max_speed_m_s * min(gap_s, 0.2)
        # sideways distance counts in full, depth for a third: from one camera it is known far less well
        offset = hand.joints[0] - track.last.joints[0]
        view = hand.joints[0] / max(float(np.linalg.norm(hand.joints[0])), 1e-9)
        along = float(offset @ view)
        sideways = float(np.linalg.norm(offset - along * view))
        return float(np.hypot(sideways, along / 3)) / allowed

    def _jumped(self, track: _Track, hand: Hand, stamp_ns: int) -> bool:
        """Against the last valid hand of the track, where it had any."""
        last, last_ns = (track.last, track.stamp_ns) if track.sound is None else (track.sound, track.sound_ns)
        if last is None:
            return False
        if hand.side is not last.side:
            return True
        if stamp_ns <= last_ns:
            return False
        dt = max((stamp_ns - last_ns) * 1e-9, _LEAST_S)
        (old_place, old_turn), (place, turn) = last.wrist, hand.wrist
        speed = float(np.linalg.norm(place - old_place)) / dt
        turn_rate = float(angle_between(old_turn, turn)) / dt
        return speed > self._config.max_speed_m_s or turn_rate > self._config.max_turn_rad_s

    def _smoothed(self, track: _Track, hand: Hand, stamp_ns: int, camera: Camera) -> Hand:
        """Filters the parameters and evaluates the hand model anew, so that joints, mesh and pose still agree."""
        if hand.jump:  # do not glide between two different things
            track.start_filters(self._config)
        wrist = track.wrist_filter(hand.joints[0], stamp_ns)
        pose = track.pose_filter(hand.pose, stamp_ns)
        betas = track.shape_filter(hand.betas, stamp_ns)
        # the root turns about joint 0, whose place at zero translation depends on the shape alone
        translation = wrist - self._hand_model.layer(hand.side).rest_joints(betas)[0]
        vertices, joints = self._pose_hand(hand.side, pose, betas, translation)
        return replace(
            hand,
            pose=pose,
            betas=betas,
            translation=translation,
            joints=joints,
            keypoints=camera.project(joints),
            vertices=vertices if hand.vertices is not None else None,
            smoothed=True,
        )
