"""The one configuration tree: from nested values, with errors that name the setting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.refinement import RefinementConfig
from wildhands_ros.estimation.wildhands import WildHandsConfig
from wildhands_ros.estimation.wildhands.runtime import Backend, RuntimeConfig
from wildhands_ros.pipeline import EstimationConfig, PipelineConfig
from wildhands_ros.settings import config_from_dict, config_to_dict
from wildhands_ros.tracking import TrackingConfig
from wildhands_ros.training.config import LossConfig, TrainingConfig


def test_what_is_not_named_keeps_its_default() -> None:
    config = config_from_dict(PipelineConfig, {"min_score": 0.7, "tracking": {"smooth": True}})
    assert config.min_score == 0.7 and config.tracking.smooth
    assert config.tracking.max_gap_s == PipelineConfig().tracking.max_gap_s


def test_round_trip() -> None:
    config = config_from_dict(PipelineConfig, {"estimation": {"mano_dir": "~/mano"}, "models_dir": "/tmp/models"})
    assert config.estimation.mano_dir == Path("~/mano").expanduser()
    assert config_from_dict(PipelineConfig, config_to_dict(config)) == config


def test_empty_text_stands_for_not_set() -> None:
    assert config_from_dict(PipelineConfig, {"estimation": {"mano_dir": ""}}).estimation.mano_dir is None
    assert config_from_dict(PipelineConfig, {"models_dir": ""}) == PipelineConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({1: 2}, "unknown setting '1': known are"),
        ({"tracking": {"smoth": True}}, "did you mean 'tracking.smooth'"),
        ({"min_score": "high"}, "'min_score' must be a number"),
        ({"min_score": 2.0}, "between 0 and 1"),
        ({"max_distance": -1.0}, "max_distance"),
        ({"tracking": {"smooth": 1}}, "'tracking.smooth' must be true or false"),
        ({"tracking": True}, "settings of its own"),
        ({"models_dir": 3}, "'models_dir' must be a path, not 3"),
        ({"estimation": {"cache_dir": "/tmp/a\0b"}}, "'estimation.cache_dir' must be a path, and no path contains NUL"),
        ({"estimation": {"estimator": "magic"}}, "unknown estimator 'magic'"),
        ({"min_score": 10**400}, "'min_score' is too large"),
        (None, "settings are names with values, not 'None'"),
        ([1], "settings are names with values"),
    ],
)
def test_errors_name_the_setting(values: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_dict(PipelineConfig, values)  # type: ignore[arg-type]


def test_what_is_given_in_python_is_checked_like_a_file() -> None:
    config = PipelineConfig(
        models_dir="models", detection={"max_hands": 3}, estimation=EstimationConfig(checkpoint="~no-such-user/x"),  # type: ignore[arg-type]
    )  # fmt: skip
    assert (config.models_dir, config.detection.max_hands) == (Path("models"), 3)
    assert config.estimation.checkpoint == Path("~no-such-user/x")
    assert EstimationConfig(threads=np.int64(2), box_factor=np.float32(1.5)).box_factor == 1.5  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'min_score' must be a number"):
        PipelineConfig(min_score="0.5")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'mesh' must be true or false"):
        EstimationConfig(mesh=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"looks": 9}, {"threads": -3}, {"box_factor": -1.0}, {"tolerance_mm": float("nan")}])
def test_numbers_of_the_network_are_checked_whichever_estimator_runs(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        EstimationConfig(estimator="landmarks", **bad)


@pytest.mark.parametrize("bad", [{"smooth": "no"}, {"min_cutoff": "1"}, {"reach_m": True}])
def test_tracking_takes_nothing_for_what_it_is_not(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"tracking.{next(iter(bad))}"):
        TrackingConfig(**bad)


@pytest.mark.parametrize(
    ("kind", "bad", "message"),
    [
        (RefinementConfig, {"bend": "6"}, "'refinement.bend' must be a number"),
        (RuntimeConfig, {"threads": 1.5}, "'threads' must be a whole number"),
        (RuntimeConfig, {"precision": "bf16"}, "unknown precision 'bf16': known are float32, "),
        (WildHandsConfig, {"all_hands": "no"}, "'all_hands' must be true or false"),
        (TrainingConfig, {"sources": ("renders",)}, r"'sources\[0\]' holds settings of its own"),
        (TrainingConfig, {"sources": ({},), "steps": 1.5}, "'steps' must be a whole number"),
        (TrainingConfig, {"sources": "renders"}, "'sources' must be a list, not 'renders'"),
        (LossConfig, {"mask": None}, "'losses.mask' must be a number"),
    ],
)
def test_every_configuration_is_checked_in_python(kind: type, bad: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**bad)


def test_members_of_enums_are_given_and_written_by_name() -> None:
    config = RuntimeConfig(backend="torch")  # type: ignore[arg-type]
    assert config.backend is Backend.TORCH and config_to_dict(config)["backend"] == "torch"
    assert config_from_dict(RuntimeConfig, config_to_dict(config)) == config
