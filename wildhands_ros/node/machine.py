"""What the results come from and run on: models with their hashes, device and memory."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from types import ModuleType

from wildhands_ros.detection.models import MODEL_FILES
from wildhands_ros.paths import expanded
from wildhands_ros.pipeline import PipelineConfig

_HASH_DIGITS = 12
_CHUNK = 1 << 20
_MEGABYTE = 1 << 20


def model_facts(config: PipelineConfig, pipeline: object) -> dict[str, str]:
    """Names and short SHA-256 sums of everything that results depend on, for diagnostics.

    pipeline: tells its hand model, estimator and device where it is a `wildhands_ros.pipeline.Pipeline`.
    """
    estimation = config.estimation
    hand_model = getattr(pipeline, "hand_model", None)
    estimator = getattr(pipeline, "estimator", None)
    network = getattr(getattr(estimator, "inner", estimator), "network", None)  # hands of a known length are wrapped
    named = "open" if estimation.mano_dir is None else str(estimation.mano_dir)
    facts = {
        "estimator": estimation.estimator,
        "hand model": named
        if hand_model is None
        else f"{named} ({hand_model.name}, sha256 {_short(hand_model.sha256)})",
        "detector models": ", ".join(_with_hash(config.models_dir / model.name) for model in MODEL_FILES),
        "device": "cpu" if network is None else f"{network.runtime.device} ({network.runtime.name})",
    }
    if estimation.checkpoint is None and estimation.estimator == "open" and network is not None:
        facts["checkpoint"] = f"the package's own (sha256 {_short(network.info.sha256)})"
    if estimation.checkpoint is not None:
        facts["checkpoint"] = _with_hash(estimation.checkpoint)
    return facts


def memory_facts() -> dict[str, str]:
    """What this process occupies now."""
    facts = {}
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        facts["memory (MB)"] = f"{pages * os.sysconf('SC_PAGE_SIZE') / _MEGABYTE:.0f}"
    except (OSError, ValueError, IndexError):
        pass  # no /proc
    cuda = _cuda_in_use()
    if cuda is not None:
        facts["GPU memory (MB)"] = f"{cuda.memory_reserved() / _MEGABYTE:.0f}"
    return facts


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory, or the machine's, was too small."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, MemoryError) or "OutOfMemoryError" in kinds or "CUDA out of memory" in str(error)


def release_gpu_memory() -> None:
    """Gives back what torch keeps for later, so that the next image has a chance."""
    cuda = _cuda_in_use()
    if cuda is not None:
        cuda.empty_cache()


def _cuda_in_use() -> ModuleType | None:
    """torch.cuda where this process already uses it, else None: torch must not be loaded just to ask."""
    cuda = sys.modules.get("torch.cuda")
    try:
        return cuda if cuda is not None and cuda.is_initialized() else None
    except AttributeError:  # another thread is just importing it
        return None


def _with_hash(path: Path) -> str:
    try:
        with expanded(path).open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        return f"{path} ({error.strerror})"
    return f"{path} (sha256 {_short(digest.hexdigest())})"


def _short(sha256: str) -> str:
    return sha256[:_HASH_DIGITS]
