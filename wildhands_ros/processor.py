"""Which processor this is, as the system tells it. Imports nothing but Python's own."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_KIND = ("vendor_id", "cpu family", "model", "model name", "flags", "CPU part", "Features")  # the last two: of Arm


def processor_name() -> str:
    """For people, such as 'AMD EPYC 9R14'."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def processor_kind() -> str:
    """Everything that two processors which run the same program equally fast have in common: their model, and what
    instructions they know (virtual machines hide some). Names alone do not tell: generations share 'AMD EPYC'."""
    found = _cpuinfo()
    return "; ".join([platform.machine(), platform.processor(), *(found.get(name, "") for name in _KIND)])


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor, by name; nothing elsewhere."""
    try:
        text = _CPUINFO.read_text(errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
