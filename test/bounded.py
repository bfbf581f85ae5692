"""Code in a process of its own that may take little: what hostile files would do to the process of the tests."""

from __future__ import annotations

import subprocess
import sys

_LIMIT = """
import resource

def limit_memory(more):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)

"""


def run_bounded(code: str, *arguments: str, seconds: float = 120) -> str:
    """What `code` prints. It may call limit_memory(bytes), once it has imported what it needs: that is then all that it
    gets. Raises AssertionError where it ends by an error or a signal, subprocess.TimeoutExpired where it goes on."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMIT + code, *arguments], capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout
