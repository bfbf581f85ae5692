"""Hands through a stream: each is followed by its own landmarks, and the search for more is spread over the frames.

Following costs one look of the landmark network a hand and frame. What the palm detector says comes in now and then,
and keeps a follow from clinging to something that is no hand. What a frame costs is bounded: by the number of hands
followed, and by `search_views` views while there are none; in proportion more where frames come seldom.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wildhands_ros.detection.boxes import make_box
from wildhands_ros.detection.landmarks import LandmarkResult, region_of_landmarks
from wildhands_ros.detection.palm import Palm
from wildhands_ros.detection.regions import Pyramid, Region
from wildhands_ros.detection.search import (
    LEAST_PRESENCE,
    Candidate,
    HandSearch,
    Sighting,
    hand_score,
    hand_size,
    log_odds,
    mean_distance,
    same_hand,
    same_palm,
    settle,
    side_bias,
)
from wildhands_ros.detection.sides import SideCue, right_log_odds, side_cue, weighed_together
from wildhands_ros.detection.views import views_of
from wildhands_ros.frames import StreamClock
from wildhands_ros.hands import FloatArray, HandBox, Landmarks

_LEAST_NS = 10_000_000  # over less, what landmarks flicker counts for more than how a hand moves
_LONGEST_GAP_S = 1.0  # after a longer pause nothing is where it was
_MEMORY_NS = 1_500_000_000  # for so long, a hand that was lost may come back as the same one
_SUSPICION_NS = 400_000_000  # for so long, a place may be followed that is not probable enough to be reported
_APART = 0.35  # of the larger hand's size: landmarks so far apart are those of two hands, however much these overlap
_ALIKE = 0.6  # smaller over larger of two such hands: what is smaller may be a finger of the other, taken for a hand
_AWAY_WEIGHT = 10.0  # log-odds for each hand's size that a look lies away from where the hand should be
_LARGEST_STEP = 0.7  # of the hand's size: prediction never moves a region further
_REFINE_STEP = 0.3  # of the hand's size: where a hand was missed by so much, it is looked at again
_STREAM_PALM_THRESHOLD = 0.15  # least score of a palm that one view alone must give to be worth a look
_FIRST_PRESENCE = 0.3  # least presence at a palm's place to look twice more
_COAST_NS = 300_000_000  # for so long, a hand that was lost is looked for where it was going
_SURE_PALM = 0.5  # score of a palm from which it may correct the landmarks of the hand that it belongs to
_EFFORT_S = 0.1  # where pictures come less often, more is searched in each, so that as much is in a second
_SPARE = 2  # hands that are followed beyond those that may be reported
_VAIN_NS = 400_000_000  # for so long, a palm in which the landmark network saw no hand is not looked at again
_SIDE_CORRELATION_S = 0.5  # looks closer together than this are one piece of evidence about the side
_BELIEF_LIMIT = 6.0  # log-odds: no hand is so sure of its side that a few seconds could not change it
_MEETING = 2.0  # of the larger hand's size: hands whose landmarks came so close may part with places exchanged
_EXCHANGE_S = 0.1  # looks closer together than this are one piece of evidence that places were exchanged
_EXCHANGE_DRIFT = 1.0  # log-odds for each such piece: weaker doubts do not add up
_EXCHANGE_LIMIT = 2.0  # log-odds: the sum of doubts from which places are exchanged back
_SIDE_MEMORY_S = 4.0  # over which the bias of upright looks is averaged
_MIRRORED_EVERY = 16  # frames between mirrored looks at one hand, which only serve to tell its side
# What a hand found in a stream needs beyond `score_threshold`, in log-odds: many views are searched in a second, each
# with its chance of a false hand; and more hands than are wanted are seldom there.
_NEWCOMER_MARGIN, _EXTRA_HAND_MARGIN = 0.9, 1.5
_LEAST_PALM_EVIDENCE = -0.3  # log-odds: the palm detector alone does not end a follow, it misses many a fist


@dataclass
class _Mean:
    """A running mean with a limited memory."""

    value: float = 0.0
    count: int = 0

    def add(self, value: float, weight: float) -> None:
        """weight: share of the newest value in the long run; the first values count equally."""
        self.count += 1
        self.value += max(weight, 1 / self.count) * (value - self.value)


@dataclass(eq=False)
class _Follow:
    """One hand on its way through the stream.

    landmarks: the last ones seen of this hand, and not of another that it came to lie on. seen_ns: when. velocity: (2,)
    pixels per second, measured until `measured_ns`, since when the hand has moved by `moved`. palm: what the palm
    detector adds to the log-odds of a hand. presence: running log-odds from the landmark network. network: log-odds of
    "right" by the last look alone: an average would speak for another hand for seconds after a follow came to lie on
    this one. bias: what upright looks say too much of that (`side_bias`). looked: log-odds of "right", gathered over
    the frames' looks; None before the first. belief: the same with what was heard of it. Whether a look fits this hand
    is decided by `looked`: what somebody else says of its side does not change how it looks.
    """

    id: int
    landmarks: Landmarks
    seen_ns: int
    palm: float
    presence: float
    velocity: FloatArray = field(default_factory=lambda: np.zeros(2))
    moved: FloatArray = field(default_factory=lambda: np.zeros(2))
    measured_ns: int = 0
    network: float = 0.0
    bias: _Mean = field(default_factory=_Mean)
    looked: float | None = None
    belief: float = 0.0
    begun_ns: int = 0
    reported: bool = False
    lost: bool = False

    @property
    def places(self) -> FloatArray:
        return self.landmarks.image

    @property
    def size(self) -> float:
        return hand_size(self.landmarks.image)

    @property
    def score(self) -> float:
        return hand_score(self.palm, self.presence)

    def gather(self, right: float, weight: float) -> None:
        """Adds what a frame says, log-odds of "right". weight: how much of it is new, where it is not the first."""
        if self.looked is None:
            self.looked, weight = 0.0, 1.0
        self.looked = _limited(self.looked + weight * right)
        self.belief = _limited(self.belief + weight * right)

    def hear(self, right: float) -> None:
        """Adds what somebody else makes of it, log-odds of "right"."""
        self.belief = _limited(self.belief + right)

    def presence_with(self, seen: LandmarkResult) -> float:
        """What `presence` becomes by another look."""
        return 0.5 * (self.presence + log_odds(seen.presence))

    def predicted(self, stamp_ns: int) -> FloatArray:
        """(21, 2): the landmarks where they should be now, at constant velocity."""
        step = self.velocity * ((stamp_ns - self.seen_ns) * 1e-9)
        length = float(np.hypot(*step))
        largest = _LARGEST_STEP * self.size
        return self.places + (step if length <= largest else step * (largest / length))


@dataclass(frozen=True)
class _Glance:
    """A view to search next. watched: the follow whose hand should be there. again: a hand was just lost there."""

    view: Region
    near: bool
    watched: _Follow | None = None
    again: bool = False


class HandFollower:
    """The hands of one stream. Not safe for calls from several threads at once."""

    def __init__(self, search: HandSearch) -> None:
        self._search = search
        self.reset()

    def reset(self) -> None:
        """Forgets the stream."""
        self._ids = itertools.count()
        self._follows: list[_Follow] = []
        self._frame = 0
        self._clock = StreamClock()
        self._now_ns: int | None = None
        self._size = (0, 0)
        self._cycle = 0
        self._vain: list[tuple[Palm, int]] = []
        self._doubts: dict[tuple[int, int], float] = {}

    def step(self, picture: Pyramid, stamp_ns: int) -> list[HandBox]:
        """The hands in the next picture of the stream, oldest follow first."""
        stamp_ns, gap = self._time(picture, stamp_ns)
        if gap > _LONGEST_GAP_S:
            self._follows = []
            for sighting in self._search.look_around(picture):
                self._begin(sighting, stamp_ns)
        else:
            self._follow_on(picture, stamp_ns, gap)
            self._exchange_back(picture, gap)
            self._look_for_more(picture, stamp_ns, gap)
        self._forget(stamp_ns)
        self._frame += 1
        return self._report(picture, gap)

    def hear(self, sides: Mapping[int, float]) -> None:
        """Adds what somebody else makes of followed hands, log-odds of "right" by id, to what is believed of them."""
        for follow in self._follows:
            if follow.id in sides:
                follow.hear(sides[follow.id])

    def _time(self, picture: Pyramid, stamp_ns: int) -> tuple[int, float]:
        """The stream's time in nanoseconds, and seconds since the picture before (`inf` for a stream's first one).

        An earlier stamp begins another stream, and so does another size of the picture: nothing is where it was. There
        ids go on counting: to a tracker, which does not see the size, an old id must not mean a new hand.
        """
        now_ns, size = self._clock(stamp_ns), (picture.width, picture.height)
        if self._now_ns is not None and (now_ns < self._now_ns or size != self._size):
            ids, goes_on = self._ids, now_ns >= self._now_ns
            self.reset()
            if goes_on:
                self._ids = ids
            now_ns = self._clock(stamp_ns)
        gap = math.inf if self._now_ns is None else (now_ns - self._now_ns) * 1e-9
        self._now_ns, self._size = now_ns, size
        return now_ns, gap

    # --- following ------------------------------------------------------------------------------------------------

    def _follow_on(self, picture: Pyramid, stamp_ns: int, gap: float) -> None:
        """Looks at every hand where it should be now; what is seen of none, or of another hand, is lost."""
        looks = []
        for follow in self._follows:
            if follow.lost and stamp_ns - follow.seen_ns > _COAST_NS:
                continue
            seen = self._look(picture, follow, stamp_ns)
            if seen is not None and self._plausible(follow, seen):
                looks.append((follow, seen))
        own = _without_duplicates(looks, stamp_ns)
        for place, follow in enumerate(self._follows):
            follow.lost = follow not in own
            if follow.lost:
                continue
            self._advance(follow, own[follow], stamp_ns)
            if (self._frame + place * (_MIRRORED_EVERY // 2)) % _MIRRORED_EVERY == 0:
                mirrored = self._search.network.look(picture, region_of_landmarks(follow.places), mirrored=True)
                if mirrored is not None and not own[follow].mirrored:
                    bias = side_bias(own[follow], mirrored)
                    follow.bias.add(bias, min(1.0, _MIRRORED_EVERY * gap / _SIDE_MEMORY_S))

    def _look(self, picture: Pyramid, follow: _Follow, stamp_ns: int) -> LandmarkResult | None:
        """The followed hand where it should be now; None where the network sees none."""
        expected = follow.predicted(stamp_ns)
        x, y = expected.mean(axis=0)
        if not (0 <= x < picture.width and 0 <= y < picture.height):
            return None
        network, region = self._search.network, region_of_landmarks(expected)
        # A hand that was just lost must show itself more clearly than one that is followed.
        least = _FIRST_PRESENCE if follow.lost else LEAST_PRESENCE
        seen = network.look(picture, region)
        if (seen is None or seen.presence < least) and not follow.lost:
            seen = network.look(picture, region, mirrored=True)  # another chance: it errs in other places
        if seen is None or seen.presence < least:
            return None
        if mean_distance(seen.landmarks.image, expected) > _REFINE_STEP * follow.size:
            seen = network.look(picture, region_of_landmarks(seen.landmarks.image))
        return seen if seen is not None and seen.presence >= least else None

    def _plausible(self, follow: _Follow, seen: LandmarkResult) -> bool:
        """Whether this can be the followed hand, and not another that it met."""
        growth = hand_size(seen.landmarks.image) / follow.size
        if not 0.4 < growth < 2.5:
            return False
        return hand_score(follow.palm, follow.presence_with(seen)) >= self._search.config.least_kept

    def _advance(self, follow: _Follow, seen: LandmarkResult, stamp_ns: int) -> None:
        follow.moved = follow.moved + (seen.landmarks.image - follow.places).mean(axis=0)
        elapsed = stamp_ns - follow.measured_ns
        if elapsed >= _LEAST_NS:
            follow.velocity = 0.5 * (follow.velocity + follow.moved / (elapsed * 1e-9))
            follow.moved, follow.measured_ns = np.zeros(2), stamp_ns
        follow.landmarks, follow.seen_ns = seen.landmarks, stamp_ns
        follow.presence = follow.presence_with(seen)
        follow.network = seen.right + (follow.bias.value if seen.mirrored else -follow.bias.value)

    def _exchange_back(self, picture: Pyramid, gap: float) -> None:
        """Gives two hands that met their own places again, where one came out of it as the other.

        For each pair, what the looks say against its sides is summed up as in Page's test (CUSUM): log-odds of
        exchanged places, less a drift, never below 0. Beliefs alone would turn over in a second, and the ids never.
        Sides are those of the looks before: what was heard may contradict all of them.
        The order of the hands says nothing here: they may cross.
        """
        weight = min(1.0, gap / _EXCHANGE_S)
        reported = [follow for follow in self._follows if follow.reported]
        told = {follow: self._side_told(follow, picture) for follow in reported}
        before, self._doubts = self._doubts, {}
        for a, b in itertools.combinations(reported, 2):
            pair = min(a.id, b.id), max(a.id, b.id)
            doubt = before.get(pair, 0.0)
            if not (a.lost and b.lost):
                met = mean_distance(a.places, b.places) < _MEETING * max(a.size, b.size)
                if not met and doubt == 0:
                    continue
                sides = math.tanh((b.looked or 0.0) / 2) - math.tanh((a.looked or 0.0) / 2)
                doubt = max(0.0, doubt + weight * (sides * (told[a] - told[b]) - _EXCHANGE_DRIFT))
            if doubt > _EXCHANGE_LIMIT:
                a.id, a.bias, b.id, b.bias = b.id, b.bias, a.id, a.bias
                a.looked, a.belief, b.looked, b.belief = b.looked, b.belief, a.looked, a.belief
                doubt = 0.0
            self._doubts[pair] = doubt

    def _side_told(self, follow: _Follow, picture: Pyramid) -> float:
        """Log-odds of "right" by the look at this hand alone; less, where it hardly saw a hand; 0 where it is lost."""
        if follow.lost:
            return 0.0
        cue = side_cue(follow.places, follow.network, picture.width, picture.height)
        (right,) = right_log_odds([cue], self._search.config.wearer_prior)
        return right / (1 + math.exp(-follow.presence))

    # --- searching ------------------------------------------------------------------------------------------------

    def _look_for_more(self, picture: Pyramid, stamp_ns: int, gap: float) -> None:
        """Searches some views for palms, and looks at the best of those that belong to no followed hand."""
        effort = max(gap / _EFFORT_S, 1.0)
        self._vain = [(palm, until) for palm, until in self._vain if until > stamp_ns]
        glances = self._next_glances(picture, round(self._views_wanted(stamp_ns) * effort), stamp_ns)
        # Few looks, at the best palms that were not looked at in vain just before: clutter must not hide a hand.
        looked: list[Palm] = []
        for palm, near in sorted(self._new_palms(picture, glances), key=lambda item: -item[0].score):
            if len(looked) >= min(round(effort), self._search.config.candidates):
                break
            if any(same_palm(palm, other) for other in looked) or self._owner(palm) is not None:
                continue
            looked.append(palm)
            if not self._look_at_palm(picture, palm, near, stamp_ns):
                self._vain.append((palm, stamp_ns + _VAIN_NS))

    def _views_wanted(self, stamp_ns: int) -> int:
        """How many views to search in a frame, where frames come often."""
        config, followed = self._search.config, sum(follow.reported for follow in self._seen())
        if followed == 0:
            coasting = sum(f.lost and stamp_ns - f.seen_ns <= _COAST_NS for f in self._follows)
            return max(1, config.search_views - coasting)  # each of these has cost a look already
        if followed < config.wanted_hands:
            return 1
        return int(self._frame % config.patrol_every == 1 % config.patrol_every)

    def _new_palms(self, picture: Pyramid, glances: Sequence[_Glance]) -> list[tuple[Palm, bool]]:
        """The palms in these views that are worth a look, each with whether its view is a near one.

        Those of followed hands are not: they speak for these hands, as a view without the palm of the hand that should
        be there speaks against it.
        """
        new: list[tuple[Palm, bool]] = []
        for glance in glances:
            palms = self._search.palms.find(picture, glance.view, self._search.config.palm_threshold)
            owners = [self._owner(palm) for palm in palms]
            for palm, owner in zip(palms, owners, strict=True):
                if owner is not None:
                    owner.palm = max(owner.palm, _evidence(palm, glance.near))
                    if palm.score >= _SURE_PALM and _disagree(palm, owner):
                        self._realign(picture, palm, owner)
                elif palm.score >= _STREAM_PALM_THRESHOLD and (glance.again or not self._was_vain(palm)):
                    new.append((palm, glance.near))
            if glance.watched is not None and glance.watched not in owners:
                glance.watched.palm = max(0.5 * glance.watched.palm, _LEAST_PALM_EVIDENCE)
        return new

    def _next_glances(self, picture: Pyramid, count: int, stamp_ns: int) -> list[_Glance]:
        """The next views in turn, and every second frame first the place where a hand was just lost."""
        lost = [f for f in self._follows if f.lost and stamp_ns - f.seen_ns < 2 * _COAST_NS]
        chosen = (
            [_Glance(_around(lost[-1], picture), True, again=True)] if lost and count and self._frame % 2 == 0 else []
        )
        views = views_of(picture.width, picture.height)
        near = [_Glance(view, True) for view in views.near]
        far = [_Glance(view, False) for view in views.far]
        watch = [_Glance(_around(follow, picture), True, follow) for follow in self._seen()]
        if len(watch) < self._search.config.wanted_hands:
            turns = itertools.chain.from_iterable(itertools.zip_longest(near, far))
            order = [glance for glance in turns if glance is not None] + watch
        else:
            order = near + watch
        while len(chosen) < min(count, len(order)):
            self._cycle = (self._cycle + 1) % len(order)
            chosen.append(order[self._cycle])
        return chosen

    def _owner(self, palm: Palm) -> _Follow | None:
        """The followed hand to which a palm belongs: the nearest, of hands that work together."""
        best, least = None, math.inf
        for follow in self._seen():
            center = follow.places[[0, 5, 9, 13, 17]].mean(axis=0)
            away = float(np.hypot(*(palm.center - center)))
            if away < least and away < 0.5 * max(palm.size, 0.5 * follow.size):
                best, least = follow, away
        return best

    def _look_at_palm(self, picture: Pyramid, palm: Palm, near: bool, stamp_ns: int) -> bool:
        """Starts a follow where the landmark network confirms the palm. False: nothing new there."""
        network = self._search.network
        first = network.look(picture, palm.hand_region())
        if first is None or first.presence < _FIRST_PRESENCE or self._is_followed(first.landmarks.image):
            return False
        sighting = settle(network, picture, first.landmarks.image, _evidence(palm, near))
        if sighting is None or sighting.score < self._search.config.least_kept:
            return False
        if self._is_followed(sighting.landmarks.image, sighting.doubt):
            return False
        self._begin(sighting, stamp_ns)
        return True

    def _realign(self, picture: Pyramid, palm: Palm, follow: _Follow) -> None:
        """Looks at a followed hand as the palm detector sees it: a region that crept off does not come back alone.

        Not where the palm turns out to be that of another followed hand: both would lie on that one.
        """
        seen = self._search.network.look(picture, palm.hand_region())
        if seen is None or any(_one_hand(seen.landmarks.image, f.places) for f in self._seen() if f is not follow):
            return
        if log_odds(seen.presence) > follow.presence:
            follow.landmarks = seen.landmarks
            follow.presence = follow.presence_with(seen)

    def _was_vain(self, palm: Palm) -> bool:
        return any(same_palm(palm, vain) for vain, _until in self._vain)

    def _is_followed(self, places: FloatArray, doubt: float = 0.0) -> bool:
        return any(_one_hand(places, follow.places, doubt) for follow in self._seen())

    def _begin(self, sighting: Sighting, stamp_ns: int) -> None:
        """Starts a follow, or takes up that of the hand that was lost here."""
        follow = self._lost_match(sighting, stamp_ns)
        if follow is None:
            follow = _Follow(next(self._ids), sighting.landmarks, stamp_ns, sighting.palm, sighting.presence)
            follow.begun_ns = stamp_ns
            self._follows.append(follow)
        elif follow.looked is not None:  # it may be another hand after all
            follow.looked, follow.belief = 0.5 * follow.looked, 0.5 * follow.belief
        follow.landmarks, follow.lost = sighting.landmarks, False
        follow.seen_ns = stamp_ns
        follow.palm, follow.presence = sighting.palm, sighting.presence
        follow.velocity, follow.moved, follow.measured_ns = np.zeros(2), np.zeros(2), stamp_ns
        follow.network = sighting.right
        follow.bias.add(sighting.bias, 0.1)

    def _lost_match(self, sighting: Sighting, stamp_ns: int) -> _Follow | None:
        """The lost follow that most probably was this hand, if any.

        A lost hand's place is a normal distribution that widens with time: the density favours the hand that was
        lost last over one that might be anywhere by now.
        """
        best, least = None, math.inf
        size = hand_size(sighting.landmarks.image)
        for follow in self._follows:
            if not follow.lost or not 0.5 < size / follow.size < 2:
                continue
            away = mean_distance(sighting.landmarks.image, follow.places) / max(size, follow.size)
            spread = 0.3 + 2.0 * (stamp_ns - follow.seen_ns) * 1e-9
            contradicted = (follow.looked or 0.0) * sighting.right < -6
            cost = 0.5 * (away / spread) ** 2 + 2 * math.log(spread)
            if away < 3 * spread and cost < least and not contradicted:
                best, least = follow, cost
        return best

    # --- telling --------------------------------------------------------------------------------------------------

    def _forget(self, stamp_ns: int) -> None:
        """Lets go of hands lost long ago, of suspicions that found no more support, and of more than are needed."""

        def kept(follow: _Follow) -> bool:
            if follow.reported:
                return not follow.lost or stamp_ns - follow.seen_ns < _MEMORY_NS
            return not follow.lost and stamp_ns - follow.begun_ns < _SUSPICION_NS

        self._follows = [follow for follow in self._follows if kept(follow)]
        best = sorted(self._seen(), key=lambda follow: (follow.reported, follow.score), reverse=True)
        for follow in best[self._search.config.max_hands + _SPARE :]:
            self._follows.remove(follow)

    def _report(self, picture: Pyramid, gap: float) -> list[HandBox]:
        config = self._search.config
        for follow in self._seen():
            if not follow.reported:
                known = sum(other.reported for other in self._seen())
                margin = _NEWCOMER_MARGIN if known < config.wanted_hands else _EXTRA_HAND_MARGIN
                if gap > _LONGEST_GAP_S:  # a first look weighed the evidence of all views
                    margin = 0.0
                follow.reported = log_odds(follow.score) >= log_odds(config.score_threshold) + margin
        shown = [follow for follow in self._seen() if follow.reported]
        cues = [side_cue(f.places, f.network, picture.width, picture.height) for f in shown]
        self._believe(shown, cues, gap)
        rights = weighed_together(cues, [follow.belief for follow in shown], config.wearer_prior)
        boxes = [
            make_box(follow.landmarks, follow.score, right, config.box_margin, follow.id)
            for follow, right in zip(shown, rights, strict=True)
        ]
        best = sorted(boxes, key=lambda box: -box.score)[: config.max_hands]
        return sorted(best, key=lambda box: box.follow_id)

    def _believe(self, follows: Sequence[_Follow], cues: Sequence[SideCue], gap: float) -> None:
        """Gathers the evidence of this frame about the sides."""
        evidence = right_log_odds(cues, self._search.config.wearer_prior)
        weight = min(1.0, gap / _SIDE_CORRELATION_S)
        for follow, right in zip(follows, evidence, strict=True):
            follow.gather(right, weight)

    def _seen(self) -> list[_Follow]:
        return [follow for follow in self._follows if not follow.lost]


def _limited(belief: float) -> float:
    return min(max(belief, -_BELIEF_LIMIT), _BELIEF_LIMIT)


def _evidence(palm: Palm, near: bool) -> float:
    """What one palm of one view adds to the log-odds of a hand."""
    return Candidate((palm,), palm.score if near else 0.0).evidence


def _without_duplicates(
    looks: Sequence[tuple[_Follow, LandmarkResult]], stamp_ns: int
) -> dict[_Follow, LandmarkResult]:
    """The looks at followed hands, without those that saw the hand of another follow, which resembles it more."""
    own = dict(looks)
    for (a, seen_a), (b, seen_b) in itertools.combinations(looks, 2):
        if a in own and b in own and _one_hand(seen_a.landmarks.image, seen_b.landmarks.image):
            first, second = _resemblance(a, seen_a, stamp_ns), _resemblance(b, seen_b, stamp_ns)
            del own[a if (first, -a.id) < (second, -b.id) else b]
    return own


def _resemblance(follow: _Follow, seen: LandmarkResult, stamp_ns: int) -> float:
    """How well what is seen fits what was followed: side, certainty, steadiness and place, in log-odds."""
    agreement = math.tanh((follow.looked or 0.0) / 2) * seen.right
    away = mean_distance(seen.landmarks.image, follow.predicted(stamp_ns)) / follow.size
    return agreement + follow.palm + 0.5 * follow.presence_with(seen) - _AWAY_WEIGHT * min(away, 1.0)


def _one_hand(a: FloatArray, b: FloatArray, doubt: float = 0.0) -> bool:
    """Whether two looks saw one hand, by their landmarks (21, 2), and not one hand that passes over another.

    On one hand both looks give all but the same landmarks; boxes overlap as much where hands cross. doubt: see
    `same_hand`.
    """
    smaller, larger = sorted((hand_size(a), hand_size(b)))
    two = smaller > _ALIKE * larger and mean_distance(a, b) > _APART * larger
    return same_hand(a, b, doubt) and not two


def _disagree(palm: Palm, follow: _Follow) -> bool:
    """Whether the landmarks of a follow lie otherwise than the palm that was found at its place."""
    theirs, ours = palm.hand_region(), region_of_landmarks(follow.places)
    turn = abs(math.remainder(theirs.angle - ours.angle, 2 * math.pi))
    away = math.hypot(theirs.x - ours.x, theirs.y - ours.y) / max(theirs.size, ours.size)
    return turn > 0.7 or away > 0.25 or not 0.6 < theirs.size / ours.size < 1.7


def _around(follow: _Follow, picture: Pyramid) -> Region:
    """A near view with the hand in its middle. Not a closer one: enlarged enough, clutter looks like palms."""
    x, y = follow.places.mean(axis=0)
    return Region(float(x), float(y), max(3.0 * follow.size, min(picture.width, picture.height)))
