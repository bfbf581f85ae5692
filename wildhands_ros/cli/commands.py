"""Reads the command line and calls the command."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence

from wildhands_ros import __version__
from wildhands_ros.cli.light import STANDARD_OUTPUT
from wildhands_ros.errors import WildHandsError
from wildhands_ros.texts import log_to_terminal, printable

_DESCRIPTION = """\
Metric 3D hand poses from a head-mounted camera: wrist, 21 joints, MANO-format pose and shape, mesh.

Exit codes: 0 done · 1 something is wrong (said in one line) · 2 bad arguments · 130 interrupted (Ctrl-C; what was
done until then is kept)."""

_COMMANDS = {
    "demo": ("demo", "the whole chain over ROS 2 topics, with measured errors"),
    "run": ("run", "hands of a picture, folder of pictures, video, webcam or rosbag2"),
    "models": ("models", "get the open detector's models"),
    "doctor": ("doctor", "check what is installed, what works, what is missing"),
    "bench": ("bench", "measure speed and accuracy on this machine"),
    "eval": ("evaluate", "measure an estimator on labelled samples"),
    "export": ("export", "write the network as an ONNX file (for TensorRT, say)"),
    "render": ("render", "render labelled hands for training"),
    "train": ("train", "train the open network"),
    "ablate": ("ablate", "compare ways of telling the network where its crop lies"),
}
"""Name → its module here and its line in the help."""

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
    given = sys.argv[1:] if arguments is None else list(arguments)
    args = _parser(given).parse_args(given)
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
    """Sends tables for people to standard error where the figures go to standard output as JSON."""
    with contextlib.redirect_stdout(sys.stderr) if json == STANDARD_OUTPUT else contextlib.nullcontext():
        yield


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with options only of the command that is called: others would load their libraries, for seconds."""
    parser = argparse.ArgumentParser(
        prog="wildhands",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wildhands_ros {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens, with tracebacks of errors")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    called = next((word for word in arguments if not word.startswith("-")), None)
    for name, (module, summary) in _COMMANDS.items():
        if name == called:
            importlib.import_module(f"wildhands_ros.cli.{module}").add_parser(subparsers, summary)
        else:
            subparsers.add_parser(name, help=summary)
    return parser
