"""From pictures to hands: detector, estimator and tracker put together from one configuration."""

from wildhands_ros.pipeline.config import (
    DEFAULT_ESTIMATOR,
    ESTIMATORS,
    EstimationConfig,
    PipelineConfig,
)
from wildhands_ros.pipeline.pipeline import Pipeline, PipelineResult

__all__ = [
    "DEFAULT_ESTIMATOR", "ESTIMATORS", "EstimationConfig", "Pipeline", "PipelineConfig", "PipelineResult",
]  # fmt: skip
