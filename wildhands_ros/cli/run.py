"""`wildhands run`: hands of a picture, folder, video, webcam or bag."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wildhands_ros.box_files import BoxFile
from wildhands_ros.cli.common import (
    add_camera,
    add_pipeline,
    make_room,
    read_camera,
    read_pipeline,
    refuse_unused,
    require_no_input,
    sigterm_interrupts,
    stem_of,
)
from wildhands_ros.cli.light import has_ros
from wildhands_ros.drawing import draw_hands, fitted
from wildhands_ros.errors import ImageError, RecordingError
from wildhands_ros.frames import Frame
from wildhands_ros.images import encode_jpeg
from wildhands_ros.interruptions import signals_held_back
from wildhands_ros.json_lines import frame_to_json
from wildhands_ros.paths import expanded
from wildhands_ros.pipeline import Pipeline, PipelineConfig, PipelineResult
from wildhands_ros.recordings import FrameSource, SourceKind, VideoWriter, open_source
from wildhands_ros.texts import listed
from wildhands_ros.whole_files import keep_others_away, write_whole

_DEFAULT_FPS = 30.0
_LONGEST_STAND_S = 2.0  # for which an annotated video shows its last picture where nothing came

logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    parser = subparsers.add_parser(
        "run",
        help=summary,
        description="Finds the hands in SOURCE and writes what they are: annotated pictures for pictures, an annotated "
        "video and a bag (MCAP, for Foxglove, rerun and ros2 bag) for streams, and JSON lines where asked for. Ctrl-C, "
        "or SIGTERM, ends a stream early and keeps what was done.",
    )
    parser.add_argument("source", help="picture, folder, video, webcam:0, or a rosbag2 folder, .mcap or .db3")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where to write (default: out)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="one JSON line a frame; '-' writes to the terminal")
    parser.add_argument("--vertices", action="store_true", help="put the mesh's vertices into the JSON lines")
    parser.add_argument("--no-video", action="store_true", help="write no annotated pictures or video")
    parser.add_argument("--no-bag", action="store_true", help="write no bag")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th frame only")
    parser.add_argument(
        "--stream", action="store_true", help="treat a folder of pictures as a video: follow hands from one to the next"
    )
    parser.add_argument("--fps", type=float, help="rate of a folder of pictures (default: 30)")
    parser.add_argument("--topic", help="image topic of a bag (needed if it has several)")
    parser.add_argument("--camera-info-topic", metavar="TOPIC", help="camera_info topic of a bag")
    parser.add_argument(
        "--boxes", type=Path, metavar="FILE", help="hand boxes from a JSON file instead of the detector's"
    )
    parser.add_argument(
        "--rectified", action=argparse.BooleanOptionalAction, default=None,
        help="the pictures are rectified, so that P of camera_info or of --camera FILE holds, or are not (default: "
        "those of a bag are if their topic is called image_rect or the like, or camera_info says so)",
    )  # fmt: skip
    add_camera(parser)
    add_pipeline(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.every < 1 or (args.frames is not None and args.frames < 1):
        raise RecordingError("--every and --frames must be at least 1")
    boxes = None if args.boxes is None else BoxFile.read(args.boxes)
    config = read_pipeline(args)
    if args.upright_rotation is not None:
        config = replace(config, upright_rotation=args.upright_rotation)
    refuse_unused(args, config)
    pipeline = Pipeline.from_config(config, with_detector=boxes is None)
    with (
        sigterm_interrupts(),
        open_source(
            args.source,
            camera=read_camera(args),
            focal=args.focal,
            topic=args.topic,
            camera_info_topic=args.camera_info_topic,
            rectified=args.rectified,
            fps=_DEFAULT_FPS if args.fps is None else args.fps,
        ) as source,
    ):
        still = source.kind is SourceKind.PICTURE or (source.kind is SourceKind.FOLDER and not args.stream)
        _warn_of_unused(args, config, source.kind, still)
        tally, interrupted = _Tally(), False
        with contextlib.ExitStack() as stack:
            outlets = _open_outlets(args, source, pipeline, still, stack)
            try:
                for frame in _frames(source, args):
                    given = None if boxes is None else boxes.of(frame)
                    result = (pipeline.process_still if still else pipeline.process)(frame, given)
                    # all outlets get a frame or none; a second Ctrl-C ends even writing to an unread pipe
                    with signals_held_back(patience=1):
                        tally.add(frame, result)
                        for outlet in outlets:
                            outlet.write(frame, result)
                            outlet.wrote = True
            except KeyboardInterrupt:
                if not tally.frames:
                    raise
                interrupted = True
                print("wildhands: interrupted; what was done is kept", file=sys.stderr)
        _warn_if_guessed(source)
        if boxes is not None and (unused := boxes.unused()):
            logger.warning(
                "no frame that was looked at has the name or number of these boxes: %s (the last frame was '%s', "
                "number %d)",
                listed(unused),
                *tally.last,
            )
        tally.print(source, [outlet.path for outlet in outlets if outlet.wrote])
    return 130 if interrupted else 0


def _warn_of_unused(args: argparse.Namespace, config: PipelineConfig, kind: SourceKind, still: bool) -> None:
    """Warns of options that have no effect with this kind of source, or without certain outputs."""
    asked = (
        ("--smooth", args.smooth and still, "single pictures have no motion (a folder has with --stream)"),
        ("--stream", args.stream and kind is not SourceKind.FOLDER, "it is for folders of pictures"),
        ("--fps", args.fps is not None and kind is not SourceKind.FOLDER, "it is for folders of pictures"),
        ("--topic", args.topic is not None and kind is not SourceKind.BAG, "it is for bags"),
        ("--camera-info-topic", args.camera_info_topic is not None and kind is not SourceKind.BAG, "it is for bags"),
        (
            "--rectified",
            args.rectified is not None and kind is not SourceKind.BAG and args.camera is None,
            "it is for bags, and for --camera FILE",
        ),
        ("--vertices", args.vertices and args.json is None, "they belong to the JSON lines: name a file with --json"),
        ("--vertices", args.vertices and not config.estimation.mesh, "estimation.mesh is false in --config"),
    )
    for option, without_effect, why in asked:
        if without_effect:
            logger.warning("%s has no effect here: %s", option, why)


def _frames(source: FrameSource, args: argparse.Namespace) -> Iterator[Frame]:
    length = source.length
    if length is not None:
        length = -(-length // args.every)
    if args.frames is not None:
        length = args.frames if length is None else min(length, args.frames)
    done = 0
    with tqdm(total=length, unit=" frames", desc=Path(str(args.source)).name, disable=None) as progress:
        for frame in source:
            if frame.index % args.every:
                continue
            yield frame
            progress.update()
            done += 1
            if args.frames is not None and done >= args.frames:
                return


# --- outlets ----------------------------------------------------------------------------------------------------------


class _Outlet(ABC):
    """Where results go. A file that was there before stays until the first frame is written.

    path: to name to the user. wrote: whether a frame was written to it.
    """

    path: Path
    wrote = False

    @abstractmethod
    def write(self, frame: Frame, result: PipelineResult) -> None:
        """Raises RecordingError where it cannot be written."""


class _Pictures(_Outlet):
    """An annotated JPEG for every picture."""

    def __init__(self, folder: Path, source: FrameSource, pipeline: Pipeline) -> None:
        self.path = folder
        self._pipeline = pipeline
        self._single = source.kind is SourceKind.PICTURE
        self._stems: set[str] = set()

    def write(self, frame: Frame, result: PipelineResult) -> None:
        name = Path(frame.name)
        stem = name.name if name.stem in self._stems else name.stem  # 1.jpg and 1.png may lie side by side
        self._stems.add(stem)
        path = _named(self.path, stem, ".jpg")
        try:
            write_whole(path, encode_jpeg(_annotated(frame, result, self._pipeline), 92))
        except ImageError as error:  # longer than a JPEG can be; its hands, and the other pictures, are good
            logger.warning("there is no annotated picture of %s: %s", frame.name, error)
            return
        except OSError as error:
            raise RecordingError(f"cannot write {path}: {error.strerror}") from error
        if self._single:
            self.path = path


class _Video(_Outlet):
    """An annotated video. It keeps the size of its first picture; others are fitted into that.

    It runs as long as the source: where frames are missing, or come at a varying rate, the last one is shown on.
    """

    def __init__(self, path: Path, fps: float, pipeline: Pipeline, stack: contextlib.ExitStack) -> None:
        self.path = path
        self._pipeline = pipeline
        self._writer = VideoWriter(path, fps)
        self._fps, self._start_s, self._last = fps, 0.0, np.empty(0, np.uint8)
        self._size: tuple[int, int] | None = None
        self._fits = False
        stack.push(self._close)

    def write(self, frame: Frame, result: PipelineResult) -> None:
        image = _annotated(frame, result, self._pipeline)
        size = (image.shape[1], image.shape[0])
        if self._size is None:
            self._size = size
        elif size != self._size:
            if not self._fits:
                logger.warning("the pictures change their size; the video stays at %dx%d", *self._size)
            self._fits = True
            image = fitted(image, *self._size)
        for _ in range(self._behind(frame.stamp_ns * 1e-9)):
            self._writer.write(self._last)
        self._writer.write(image)
        self._last = image

    def _behind(self, seconds: float) -> int:
        """How many pictures are missing before this one; few where a clock was set or nothing came for long."""
        written = self._writer.count
        missing = (seconds - self._start_s) * self._fps - written
        if written == 0 or abs(missing) > _LONGEST_STAND_S * self._fps:
            missing = min(max(missing, 0), _LONGEST_STAND_S * self._fps) if written else 0
            self._start_s = seconds - (written + round(missing)) / self._fps
        return max(round(missing), 0)

    def _close(self, *exception: object) -> None:
        """Finishes the video also when the source broke off: the frames before that are good."""
        if self._writer.count:
            self._writer.close()
        else:
            self._writer.abort()


class _Json(_Outlet):
    """JSON lines."""

    def __init__(self, path: Path, pipeline: Pipeline, vertices: bool, stack: contextlib.ExitStack) -> None:
        self.path = path
        self._pipeline = pipeline
        self._vertices = vertices
        self._is_new = not path.exists()
        if str(path) != "-":
            make_room(path)
            self._file: TextIO = _reserved(path)
            stack.callback(self._close)
        elif sys.stdout is None:
            raise RecordingError("--json - writes to standard output, which is closed: name a file")
        else:
            self._file = sys.stdout

    def write(self, frame: Frame, result: PipelineResult) -> None:
        estimator, model = self._pipeline.estimator.name, self._pipeline.hand_model.name
        line = frame_to_json(frame, result, estimator=estimator, hand_model=model, vertices=self._vertices)
        try:
            if not self.wrote and self._file is not sys.stdout and self.path.is_file():
                self._file.truncate(0)
            print(line, file=self._file, flush=True)  # a full disk shows at once, and others can follow the file
        except BrokenPipeError as error:
            if self._file is sys.stdout:  # where what could not be written waits, for Python's end to complain about
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), self._file.fileno())
            raise RecordingError("whoever read the JSON lines is gone; what was done until then is kept") from error
        except OSError as error:
            raise RecordingError(f"cannot write {self.path}: {error.strerror}") from error

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # of a line that could not be written, which was said
            self._file.close()
        if self._is_new and not self.wrote and self.path.is_file():
            self.path.unlink()


def _reserved(path: Path) -> TextIO:
    """Opens a file, pipe or terminal to append to; a file is locked, and not changed yet. Raises RecordingError."""
    try:
        file = path.open("a", encoding="utf-8")  # not "w", which would empty it before a line is there
    except OSError as error:
        raise RecordingError(f"cannot write {path}: {error.strerror}") from error
    if path.is_file():
        try:
            keep_others_away(file.fileno(), path)
        except RecordingError:
            file.close()
            raise
    return file


class _Bag(_Outlet):
    """Pictures, camera_info, hands, TF and markers as a live node would have published them."""

    def __init__(self, path: Path, pipeline: Pipeline, stack: contextlib.ExitStack) -> None:
        from wildhands_ros.node.hands_bag import HandsBag  # needs ROS, which everything else here does not

        self.path = path
        self._bag = stack.enter_context(HandsBag(path, pipeline.faces))

    def write(self, frame: Frame, result: PipelineResult) -> None:
        self._bag.write(frame, result)


def _open_outlets(
    args: argparse.Namespace, source: FrameSource, pipeline: Pipeline, still: bool, stack: contextlib.ExitStack
) -> list[_Outlet]:
    outlets: list[_Outlet] = []
    stem = stem_of(args.source)
    if not args.no_video:
        if still:
            _require_another_folder(args.out, source, args.source)
            outlets.append(_Pictures(args.out, source, pipeline))
        else:
            fps = (source.fps or _DEFAULT_FPS) / args.every
            outlets.append(_Video(_named(args.out, stem, ".mp4"), fps, pipeline, stack))
    if not args.no_bag and not still:
        if has_ros():
            outlets.append(_Bag(_named(args.out, stem, ".mcap"), pipeline, stack))
        else:
            logger.warning("no ROS here, so no bag is written (--no-bag silences this; wildhands doctor tells more)")
    if args.json is not None:  # last: where another program writes the bag, its lines stay
        require_no_input(args.json, args.source, args.camera, args.boxes, args.config, args.checkpoint)
        outlets.append(_Json(args.json, pipeline, args.vertices, stack))
    if not outlets:
        raise RecordingError(f"nothing would be written: name a file with --json, or leave out {_silencers(args)}")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"cannot create the folder {args.out}: {error.strerror}") from error
    return outlets


def _require_another_folder(out: Path, source: FrameSource, path: str) -> None:
    """Annotated pictures beside the ones that are read could replace some, and the next run would take them for more.

    Raises RecordingError.
    """
    if source.kind is SourceKind.FOLDER and out.is_dir() and out.samefile(expanded(path)):
        raise RecordingError(
            f"--out {out} is the folder whose pictures are read, among which annotated ones must not come: name "
            "another folder, or give --no-video for the JSON lines alone"
        )


def _silencers(args: argparse.Namespace) -> str:
    return " and ".join(name for name, given in (("--no-video", args.no_video), ("--no-bag", args.no_bag)) if given)


def _named(folder: Path, stem: str, suffix: str) -> Path:
    return folder / f"{stem}_hands{suffix}"


def _annotated(frame: Frame, result: PipelineResult, pipeline: Pipeline) -> NDArray[np.uint8]:
    return draw_hands(frame.image, result.hands, frame.camera, pipeline.faces)


# --- what was done ----------------------------------------------------------------------------------------------------


class _Tally:
    """Counts for the last lines."""

    def __init__(self) -> None:
        self.frames = self.hands = self.with_hands = 0
        self.seconds: list[float] = []
        self.skipped: dict[str, int] = {}
        self.last = ("", -1)  # name and number
        self._start = time.monotonic()

    def add(self, frame: Frame, result: PipelineResult) -> None:
        self.frames += 1
        self.last = (frame.name, frame.index)
        self.hands += len(result.hands)
        self.with_hands += bool(result.hands)
        self.seconds.append(result.timings["total"])
        for reason in result.skipped:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def print(self, source: FrameSource, paths: list[Path]) -> None:
        wall = time.monotonic() - self._start
        median_ms = 1e3 * float(np.median(self.seconds)) if self.seconds else 0.0
        err = sys.stderr
        print(
            f"{self.frames} frames, {self.hands} hands in {self.with_hands} of them; "
            f"median {median_ms:.1f} ms a frame for the hands, {wall:.1f} s in all",
            file=err,
        )
        for reason, count in sorted(self.skipped.items(), key=lambda item: -item[1])[:5]:
            print(f"left out {count}×: {reason}", file=err)
        if source.problems:  # each was logged as it was found
            print(f"{len(source.problems)} problem(s) of the recording: the warnings above", file=err)
        for path in paths:
            if str(path) != "-":
                print(f"wrote {path}", file=err)


def _warn_if_guessed(source: FrameSource) -> None:
    if source.camera_is_guess:
        topic = ", --camera-info-topic TOPIC" if source.kind is SourceKind.BAG else ""
        print(
            "warning: the focal length is a guess, so distances and sizes are too (they are proportional to it): "
            f"give --focal PX{topic} or --camera FILE",
            file=sys.stderr,
        )
