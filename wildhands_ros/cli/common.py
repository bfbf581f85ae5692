"""Options and helpers that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wildhands_ros.camera import Camera
from wildhands_ros.cli.light import STANDARD_OUTPUT, add_models_dir
from wildhands_ros.errors import ConfigError, WildHandsError
from wildhands_ros.mounting import ROTATIONS
from wildhands_ros.paths import expanded
from wildhands_ros.pipeline import DEFAULT_ESTIMATOR, ESTIMATORS, PipelineConfig
from wildhands_ros.pipeline.pipeline import needs_torch
from wildhands_ros.settings import config_from_dict, read_settings
from wildhands_ros.whole_files import write_whole

logger = logging.getLogger(__name__)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """In the block, SIGTERM (of systemd, docker, timeout) and SIGHUP (of a closed terminal) do what Ctrl-C does.

    So what was done is kept, and no process stays behind.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may say what signals do
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    heard = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]  # as nohup has it
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def output_file(text: str) -> Path:
    """For options that name a file to write: '-' is standard output."""
    return STANDARD_OUTPUT if text == "-" else Path(text)


def add_table(parser: argparse.ArgumentParser) -> None:
    """`--table`, for `write_table`."""
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the tables, as Markdown")


def write_table(text: str, path: Path | None) -> None:
    """Writes what was printed into the file that `--table` names, if any. Raises OSError where it cannot be written."""
    if path is not None:
        write_whole(path, f"{text}\n".encode())


def add_camera(parser: argparse.ArgumentParser) -> None:
    """`--focal`, `--camera` and `--upright-rotation`."""
    group = parser.add_argument_group("the camera (depth is proportional to the focal length)")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--focal", type=float, metavar="PX", help="focal length in pixels; no lens distortion")
    choice.add_argument(
        "--camera",
        type=Path,
        metavar="FILE",
        help="calibration in the YAML of ROS's camera_calibration: intrinsics and lens distortion",
    )
    group.add_argument(
        "--upright-rotation",
        type=int,
        choices=ROTATIONS,
        help="by how many degrees clockwise pictures must be turned to be upright, of a camera that is mounted "
        "sideways or upside down; boxes and results are for the pictures as they come all the same",
    )


def read_camera(args: argparse.Namespace) -> Camera | None:
    """The camera of the user's calibration file, if one was named; its rectified pictures' with `--rectified`."""
    return None if args.camera is None else Camera.from_yaml(args.camera, rectified=bool(args.rectified))


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """Everything that decides how pictures become hands."""
    group = parser.add_argument_group("how hands are found and estimated")
    group.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default=None,
        help=f"what turns boxes into 3D hands (default: {DEFAULT_ESTIMATOR})",
    )
    group.add_argument(
        "--mano-dir",
        type=Path,
        metavar="DIR",
        help="folder with your MANO_RIGHT.pkl and MANO_LEFT.pkl, for --estimator wildhands or landmarks (default: the "
        "open hand model)",
    )
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="weights of the network; implies --estimator open for those that were trained on the open hand, "
        "--estimator wildhands for all others",
    )
    group.add_argument(
        "--no-refine",
        action="store_true",
        help="leave hands where the open network has them, whatever the landmarks say",
    )
    group.add_argument("--box-factor", type=float, metavar="F", help="edge of the network's crop over that of the box")
    group.add_argument(
        "--all-hands",
        action="store_true",
        help="with --estimator wildhands every hand, not just the most probable one of each side; the others always do",
    )
    group.add_argument(
        "--hand-length",
        type=float,
        metavar="M",
        help="the person's hand in metres, from the crease of the wrist to the tip of the middle finger: makes "
        "distances about a quarter more accurate",
    )
    group.add_argument(
        "--looks",
        type=int,
        metavar="N",
        help="average N looks at each hand, 1 to 3: more accurate, and slower (default: 1)",
    )
    group.add_argument("--precision", metavar="P", help="of the network: float32, bfloat16, float16, int8, auto")
    group.add_argument("--min-score", type=float, metavar="P", help="leave out hands less probable than this")
    group.add_argument(
        "--max-distance",
        type=float,
        metavar="M",
        help="leave out hands whose wrist is farther away, in metres: other people's (default: 0, none)",
    )
    group.add_argument("--smooth", action="store_true", help="filter the motion over time (One-Euro)")
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML with any setting of the pipeline; options here override it"
    )
    add_models_dir(group, also_in_config=True)


def read_pipeline(args: argparse.Namespace) -> PipelineConfig:
    """The configuration that the command line asks for. Raises ConfigError naming what makes no sense."""
    config = PipelineConfig() if args.config is None else config_from_dict(PipelineConfig, read_settings(args.config))
    replace = dataclasses.replace
    if args.models_dir is not None:
        config = replace(config, models_dir=args.models_dir)
    for name in ("min_score", "max_distance"):
        if (value := getattr(args, name)) is not None:
            config = replace(config, **{name: value})
    estimation = config.estimation
    if args.no_refine:
        estimation = replace(estimation, refine=False)
    if args.all_hands:
        estimation = replace(estimation, all_hands=True)
    if args.estimator is not None or args.checkpoint is not None:
        estimation = replace(estimation, estimator=args.estimator or _estimator_of(args.checkpoint))
    for name in ("mano_dir", "checkpoint", "box_factor", "hand_length", "looks", "precision"):
        if (value := getattr(args, name)) is not None:
            estimation = replace(estimation, **{name: value})
    if args.smooth:
        config = replace(config, tracking=replace(config.tracking, smooth=True))
    return replace(config, estimation=estimation)


def refuse_unused(args: argparse.Namespace, config: PipelineConfig) -> None:
    """Warns of options of `add_pipeline` that have no effect with the estimator of `config`.

    Raises ConfigError for weights that it does not use: the user would take its results for theirs.
    """
    estimator = config.estimation.estimator
    if estimator == "landmarks" and args.checkpoint is not None:
        raise ConfigError(
            f"the estimator 'landmarks' has no network that could use {args.checkpoint}: leave out --checkpoint, or "
            "--estimator landmarks"
        )
    networks = ("open", "wildhands")
    unused = [
        name
        for name, given, users in (
            ("--box-factor", args.box_factor is not None, networks),
            ("--all-hands", args.all_hands, ("wildhands",)),
            ("--looks", args.looks is not None, networks),
            ("--precision", args.precision is not None, networks),
            ("--no-refine", args.no_refine, ("open",)),
        )
        if given and estimator not in users
    ]
    if unused:
        logger.warning("no effect with the estimator '%s': %s", estimator, ", ".join(unused))


def name_unused_on_samples(args: argparse.Namespace) -> None:
    """Warns of options of `add_pipeline` that have no effect where only an estimator is run, on labelled hands."""
    unused = [
        name
        for name, given in (
            ("--min-score", args.min_score is not None),
            ("--smooth", args.smooth),
            ("--max-distance", args.max_distance is not None),
        )
        if given
    ]
    if unused:
        logger.warning(
            "no effect on samples, of which every hand is estimated by itself and none left out: %s", ", ".join(unused)
        )


def _estimator_of(checkpoint: Path) -> str:
    """The estimator that these weights are for; of unreadable ones 'wildhands', which says what is wrong with them."""
    with needs_torch("--checkpoint"):
        from wildhands_ros.estimation.wildhands import OPEN_HAND, hand_model_of

    return "open" if hand_model_of(checkpoint) == OPEN_HAND else "wildhands"


def stem_of(source: str | Path) -> str:
    """A file name's stem for the results of a source; that of a folder (also of ".") is its whole name."""
    path = Path(os.path.abspath(source))
    return (path.name if path.is_dir() else path.stem).replace(":", "_")


def make_room(*files: Path | None) -> None:
    """Makes the folders of files that will be written, and checks that these can be: now, not after the work.

    Raises OSError for a folder, WildHandsError for a file.
    """
    for path in files:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            require_writable(path)


def require_no_input(output: Path, *inputs: str | Path | None) -> None:
    """Raises WildHandsError where writing `output` would destroy an input.

    That is one of `inputs` itself, or a picture or bag file in a folder that is one of them.
    """
    from wildhands_ros.recordings.bag_reader import BAG_SUFFIXES, PACKED_SUFFIXES  # not for every command
    from wildhands_ros.recordings.pictures import PICTURE_SUFFIXES

    output = output.resolve()
    if not output.is_file():
        return
    kinds = PICTURE_SUFFIXES | BAG_SUFFIXES | {*PACKED_SUFFIXES}
    recorded = output.suffix.lower() in kinds or output.name == "metadata.yaml"
    for given in inputs:
        path = None if given is None else expanded(given)
        if path is None or not path.exists():
            continue
        if path.samefile(output) or (recorded and path.resolve() == output.parent):
            raise WildHandsError(f"{output}, which would be written, is what is read: name another file")


def require_writable(path: Path) -> None:
    """Raises WildHandsError for a file that cannot be written; leaves everything as it was."""
    try:
        if path.is_dir():
            raise WildHandsError(f"{path} is a folder: name a file in it")
        is_new = not path.exists()
        if is_new or path.is_file():  # not a pipe, whose reader would take this trial for the end
            path.open("a").close()
        if is_new:
            os.unlink(os.path.realpath(path))  # the new file, not a link that leads to it
    except OSError as error:
        raise WildHandsError(f"{path} cannot be written ({error.strerror or error}): name another file") from error
