"""ONNX Runtime and OpenVINO report their use to their makers unless told not to, which a robot must not do."""

from __future__ import annotations

import os
import sys


def keep_backends_silent() -> None:
    """Before either is imported for the first time in this process; afterwards it is too late.

    Neither has a parameter for it: ONNX Runtime (1.32) heeds a variable of the environment alone, also against its own
    `disable_telemetry_events`; OpenVINO (2026.4) reports its import, unless its telemetry cannot be imported.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
