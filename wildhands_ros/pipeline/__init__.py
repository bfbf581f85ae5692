"""From pictures to hands: detector, estimator and tracker put together from one configuration."""

from wildhands_ros.pipeline.config import EstimationConfig, PipelineConfig, config_from_dict, config_to_dict
from wildhands_ros.pipeline.pipeline import Pipeline, PipelineResult

__all__ = ["EstimationConfig", "Pipeline", "PipelineConfig", "PipelineResult", "config_from_dict", "config_to_dict"]
