"""How far estimates are from the truth."""

from wildhands_ros.evaluation.metrics import (
    absolute_error,
    keypoint_error,
    mpjpe,
    mrrpe,
    pa_mpjpe,
    similarity_align,
    wrist_error,
)
from wildhands_ros.evaluation.sample_scores import MEASURES, Measure, Predictions, SampleScores, score_samples
from wildhands_ros.evaluation.sequence import FrameTruth, SequenceScore, score_sequence, score_sequences

__all__ = [
    "MEASURES", "FrameTruth", "Measure", "Predictions", "SampleScores", "SequenceScore", "absolute_error",
    "keypoint_error", "mpjpe", "mrrpe", "pa_mpjpe", "score_samples", "score_sequence", "score_sequences",
    "similarity_align", "wrist_error",
]  # fmt: skip
