"""Left or right? What the network says, weighed with what a head-mounted camera makes likely.

All quantities are log-odds of "this is the person's right hand": evidence adds up, nothing is a rule. A hand whose
forearm points down in the picture is probably the wearer's own. Of those, the right one's elbow tends to be in the
right half (wrists cross the body's middle, elbows rarely do), the forearm to come from the right, and the hand to be
right of the left one; and a person has one of each. A hand whose forearm points up belongs to somebody who faces the
camera, and none of this is said of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wildhands_ros.hands import MIDDLE_MCP, FloatArray

# The network is surer of itself than it is right: on head-camera stills its sign is wrong for one hand in six at log-
# odds around 3. The other weights are below what the evaluation pictures would support, so that a sure network
# outvotes everything that a single hand's place can say.
_NETWORK_WEIGHT = 0.5
_FOREARM_LENGTH = 1.5  # of the hand's box: how far from the wrist the elbow is taken to be, foreshortened as it is
_ELBOW_WEIGHT = 2.5  # per half picture width from the centre
_ELBOW_LIMIT = 0.7  # half picture widths: further out is no stronger evidence
_ARM_WEIGHT = 0.6  # forearm straight from the right
_CLOSE_UP = (0.6, 1.0)  # of the picture's shorter edge: so large a hand tells less, and then nothing, by its place
_ORDER_WEIGHT = 3.0  # two of the wearer's hands, a hand's size or more apart
_SAME_SIDE_PENALTY = 2.0  # two of the wearer's hands with the same side
_LARGEST_GROUP = 6


@dataclass(frozen=True)
class SideCue:
    """What one hand in a picture says about its side.

    network: log-odds of "right" from the network, without its bias: the average of a look and a mirrored one, or
    one look less the bias that such pairs showed before.
    wearer: how probably it is the hand of whoever wears the camera, 0 to 1.
    prior: log-odds from its place and forearm, given that it is the wearer's.
    x, size: place of the wrist and length of the hand's box, in pixels.
    """

    network: float
    wearer: float
    prior: float
    x: float
    size: float


def side_cue(places: FloatArray, network: float, width: int, height: int) -> SideCue:
    """The cue of a hand with landmarks `places` (21, 2), in pixels of a width × height picture."""
    wrist = places[0]
    forearm = wrist - places[MIDDLE_MCP]
    length = float(np.hypot(*forearm))
    along_x, along_y = forearm / length if length > 0 else (0.0, 0.0)
    # Level forearms are mostly the wearer's, reaching across; clearly rising ones are not.
    wearer = 1 / (1 + math.exp(-6 * (float(along_y) + 0.5)))
    size = float((places.max(axis=0) - places.min(axis=0)).max())
    wearer *= float(np.interp(size / min(width, height), _CLOSE_UP, (1.0, 0.0)))
    elbow = wrist[0] + _FOREARM_LENGTH * size * along_x
    offset = float(np.clip((elbow - (width - 1) / 2) / (width / 2), -_ELBOW_LIMIT, _ELBOW_LIMIT))
    prior = _ELBOW_WEIGHT * offset + _ARM_WEIGHT * float(along_x)
    return SideCue(network, wearer, prior, float(wrist[0]), size)


def right_log_odds(cues: Sequence[SideCue], wearer_prior: float = 1.0) -> list[float]:
    """Posterior log-odds of "right" for each hand in one picture, all of them weighed together.

    wearer_prior: weight of everything that is assumed of a wearer's hands; 0 for a camera that nobody wears.
    """
    alone = [_NETWORK_WEIGHT * cue.network + wearer_prior * cue.wearer * cue.prior for cue in cues]
    return weighed_together(cues, alone, wearer_prior)


def weighed_together(cues: Sequence[SideCue], alone: Sequence[float], wearer_prior: float = 1.0) -> list[float]:
    """Log-odds of "right" for each hand, from those of each hand alone and what the hands say about each other."""
    # Only the most probable wearer's hands can influence each other; more than a few of them are not one person's.
    group = sorted(range(len(cues)), key=lambda i: -cues[i].wearer)[:_LARGEST_GROUP]
    together = list(alone)
    if len(group) > 1 and wearer_prior > 0:
        joint = _joint([cues[i] for i in group], [alone[i] for i in group], wearer_prior)
        for i, value in zip(group, joint, strict=True):
            together[i] = value
    return together


def _joint(cues: Sequence[SideCue], alone: Sequence[float], wearer_prior: float) -> list[float]:
    """Marginal log-odds over every assignment of sides, by enumeration."""
    assignments = np.array(list(itertools.product((0, 1), repeat=len(cues))))  # 1 is right
    score = assignments @ np.array(alone)
    for i, j in itertools.combinations(range(len(cues)), 2):
        together = wearer_prior * cues[i].wearer * cues[j].wearer
        size = max(cues[i].size, cues[j].size, 1e-6)
        order = _ORDER_WEIGHT * math.tanh((cues[j].x - cues[i].x) / size)  # > 0: j lies to the right
        left_right = (assignments[:, i] == 0) & (assignments[:, j] == 1)
        right_left = (assignments[:, i] == 1) & (assignments[:, j] == 0)
        same = assignments[:, i] == assignments[:, j]
        score = score + together * (0.5 * order * left_right - 0.5 * order * right_left - _SAME_SIDE_PENALTY * same)
    result = []
    for i in range(len(cues)):
        right = assignments[:, i] == 1
        result.append(float(np.logaddexp.reduce(score[right]) - np.logaddexp.reduce(score[~right])))
    return result
