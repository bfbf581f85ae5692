"""Numbers that JSON does not have."""

from __future__ import annotations

import math
from typing import Any


def without_nan(value: Any) -> Any:
    """The same plain values, nested as they are, with null for NaN and infinity: a number that is not known."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
