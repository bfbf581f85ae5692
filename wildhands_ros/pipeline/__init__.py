"""From pictures to hands: detector, estimator and tracker put together from one configuration."""

from wildhands_ros.pipeline.config import (
    ESTIMATORS,
    EstimationConfig,
    PipelineConfig,
    config_from_dict,
    config_to_dict,
)
from wildhands_ros.pipeline.pipeline import Pipeline, PipelineResult

__all__ = [
    "ESTIMATORS", "EstimationConfig", "Pipeline", "PipelineConfig", "PipelineResult", "config_from_dict",
    "config_to_dict",
]  # fmt: skip
