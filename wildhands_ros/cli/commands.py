"""Reads the command line and calls the command."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence

from wildhands_ros import __version__
from wildhands_ros.cli import ablate, bench, demo, doctor, evaluate, export, models, render, run, train
from wildhands_ros.cli.common import STANDARD_OUTPUT
from wildhands_ros.errors import WildHandsError
from wildhands_ros.texts import log_to_terminal, printable

_DESCRIPTION = """\
Metric 3D hand poses from a head-mounted camera: wrist, 21 joints, MANO-format pose and shape, mesh.

Exit codes: 0 done · 1 something is wrong (said in one line) · 2 bad arguments · 130 interrupted (Ctrl-C; what was
done until then is kept)."""

_EXAMPLES = """\
examples:
  wildhands models fetch                      get the open detector's models (8 MB, once)
  wildhands run picture.jpg --focal 1030      hands of a picture → out/picture_hands.jpg
  wildhands run video.mp4 --json hands.jsonl  annotated video, bag, and one JSON line a frame
  wildhands run recording.mcap                the hands of a rosbag2 recording
  wildhands demo                              the whole chain over ROS 2 topics, with measured errors
  wildhands doctor                            what works here and what is missing
"""


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Ctrl-C is the caller's, as KeyboardInterrupt."""
    for stream in (sys.stdout, sys.stderr):  # of terminals that cannot show everything: after the work is too late
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
    args = _parser().parse_args(arguments)
    log_to_terminal(logging.DEBUG if args.verbose else logging.WARNING)
    try:
        with _others_aside(getattr(args, "json", None)):
            code: int = args.run(args)
        return code
    except WildHandsError as error:
        if args.verbose:
            logging.exception("%s", error)
        print(printable(f"wildhands: {error}"), file=sys.stderr)
        return 1
    except OSError as error:  # a folder that cannot be made, a full disk: seldom worth a traceback
        if args.verbose:
            logging.exception("%s", error)
        where = "" if error.filename is None else f"{error.filename}: "
        text = f"wildhands: {where}{error.strerror or error} (-v tells where this happened)"
        print(printable(text), file=sys.stderr)
        return 1


@contextlib.contextmanager
def _others_aside(json: object) -> Iterator[None]:
    """Where figures go to standard output as JSON, tables for people go to standard error."""
    with contextlib.redirect_stdout(sys.stderr) if json == STANDARD_OUTPUT else contextlib.nullcontext():
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wildhands",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wildhands_ros {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens, with tracebacks of errors")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (demo, run, models, doctor, bench, evaluate, export, render, train, ablate):
        command.add_parser(subparsers)
    return parser
