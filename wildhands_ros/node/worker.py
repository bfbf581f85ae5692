"""The one thread that does all the work on images."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import Clock, ROSClock
from rclpy.context import Context
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from wildhands_ros.errors import CameraError, ImageError, WildHandsError
from wildhands_ros.frames import Frame, stream_time
from wildhands_ros.hands import Side
from wildhands_ros.images import require_colour
from wildhands_ros.node.captures import Shutter, Sight
from wildhands_ros.node.diagnostics import Drop, Statistics
from wildhands_ros.node.images import Bridge, decode
from wildhands_ros.node.inbox import Inbox, Parcel
from wildhands_ros.node.inputs import CameraCache, InputTopics
from wildhands_ros.node.machine import is_out_of_memory, release_gpu_memory
from wildhands_ros.node.messages import stamp_ns
from wildhands_ros.node.outlets import Outcome, Outlets, Report
from wildhands_ros.node.parameters import NodeParameters
from wildhands_ros.node.transform_buffer import TransformError, TransformLookup
from wildhands_ros.pipeline import PipelineConfig, PipelineResult
from wildhands_ros.rigid import moved_hand

ImageMessage: TypeAlias = Image | CompressedImage

_A_SECOND_NS = 10**9
_SUSPICIOUS = 5  # images in a row with one stamp; a few can come of a player that shows one again


class HandPipeline(Protocol):
    """What the node needs of a pipeline; `wildhands_ros.pipeline.Pipeline` is one."""

    @property
    def faces(self) -> Mapping[Side, NDArray[np.integer]]:
        """Triangles (F, 3) of each side's mesh."""
        ...

    def configure(self, config: PipelineConfig) -> bool:
        """Takes another configuration; False where it takes a new pipeline."""
        ...

    def process(self, frame: Frame) -> PipelineResult:
        """The hands of the next image of the stream."""
        ...

    def reset(self) -> None:
        """Forgets the stream."""
        ...


class Worker:
    """Turns images into results, one at a time, in a thread of its own.

    The newest image wins: while one is worked on, the next one waits in a mailbox of one. Whatever one image does,
    the next one is processed. Lives from the node's activation to its deactivation.

    settings: gives the parameters of the moment. report: takes kind and text of problems.
    """

    def __init__(
        self,
        pipeline: HandPipeline,
        outlets: Outlets,
        topics: InputTopics,
        cameras: CameraCache,
        *,
        settings: Callable[[], NodeParameters],
        statistics: Statistics,
        report: Report,
        clock: Clock,
        context: Context,
        bridge: Bridge | None,
        transforms: TransformLookup | None,
    ) -> None:
        self._pipeline = pipeline
        self._outlets = outlets
        self._topics = topics
        self._cameras = cameras
        self._settings = settings
        self._config: PipelineConfig | None = None  # the pipeline may have been made before some were set
        self._statistics = statistics
        self._report = report
        self._clock = clock
        self._context = context
        self._bridge = bridge
        self._transforms = transforms
        self._inbox: Inbox[ImageMessage, CameraInfo] = Inbox()
        self._shutter = Shutter()
        self._reset_wanted = threading.Event()
        self._stopping = threading.Event()
        self._publishing = threading.Lock()
        self._enabled = True
        self._last_stamp_ns: int | None = None
        self._same_stamps = 0
        self._frames = 0
        self._thread = threading.Thread(target=self._work, name="wildhands", daemon=True)

    # --- from other threads -----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the image in work is done, which waits for TF no longer; shows no markers afterwards."""
        self._stopping.set()
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join()
        self.cancel_captures("the node was deactivated meanwhile")
        try:
            self._outlets.hide()
        except Exception:
            if self._context.ok():  # else ROS has been shut down before the node
                raise

    def put_image(self, message: ImageMessage) -> None:
        """Leaves an image; one that still waits is dropped for it. One without a stamp gets that of its arrival."""
        if not self._enabled:
            self._statistics.image_dropped(Drop.DISABLED)
            return
        if stamp_ns(message.header.stamp) == 0:
            message.header.stamp = self._clock.now().to_msg()
            self._report(
                "no_stamp",
                f"the images on {self._topics.image} have no header.stamp (it is 0): the time of their arrival stands "
                "in for it, and fits no other sensor's; set it in the driver",
            )
        if self._inbox.put_image(message, stamp_ns(message.header.stamp)):
            self._statistics.image_dropped(Drop.NEWER if self._inbox.has_info else Drop.NO_CAMERA_INFO)

    def put_info(self, message: CameraInfo) -> None:
        """Leaves camera info for this and later images."""
        self._inbox.put_info(message, stamp_ns(message.header.stamp))

    def reset(self) -> None:
        """Forgets the hands that were followed, before the next image."""
        self._reset_wanted.set()

    def enable(self, enabled: bool) -> None:
        """Goes on, with no hand followed yet; or drops all images from now on, and takes the markers away."""
        with self._publishing:
            if enabled and not self._enabled:
                self.reset()
            self._enabled = enabled
            if not enabled:
                self._outlets.hide()
        if not enabled:
            self.cancel_captures("the node was disabled meanwhile")

    def cancel_captures(self, reason: str) -> None:
        """Ends the waiting for a next image, with this reason."""
        self._shutter.cancel(reason)

    def next_sight(self, timeout_s: float) -> Sight:
        """Waits for the next image and what came of it. Raises CaptureError if none comes."""
        return self._shutter.next(timeout_s)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (parcel := self._inbox.take()) is not None:
            try:
                self._process(parcel)
            except Exception as error:  # whatever one image does must not stop the next
                if not self._context.ok():
                    return
                self._statistics.image_failed()
                self._report_failure(error)

    def _process(self, parcel: Parcel[ImageMessage, CameraInfo]) -> None:
        started = time.perf_counter()
        settings = self._settings()
        self._configure(settings.pipeline)
        self._look_at_the_stamp(parcel.stamp_ns)
        if self._reset_wanted.is_set():
            self._reset_wanted.clear()
            self._pipeline.reset()
        frame = self._frame(parcel)
        converted = time.perf_counter()
        result = self._pipeline.process(frame)
        processed = time.perf_counter()
        sight = Sight(frame, result, self._pipeline.faces)
        outcome = self._placed(sight, parcel.image.header, settings, started)
        placed = time.perf_counter()
        with self._publishing:
            if not self._enabled:
                self._statistics.image_dropped(Drop.DISABLED)
                return
            published = None if outcome is None else self._outlets.publish(outcome, sight, settings)
            self._outlets.publish_annotated(sight, parcel.image.header, settings)
        self._shutter.offer(sight)
        if published is not None:
            timings = {
                "convert": converted - started,
                **{stage: seconds for stage, seconds in result.timings.items() if stage != "total"},
                "transform": placed - processed,
                "publish": time.perf_counter() - placed,
            }
            since_reception = published.at - parcel.received
            self._statistics.result_published(
                len(result.hands), since_reception, timings, capture_s=published.since_capture_s
            )

    def _configure(self, config: PipelineConfig) -> None:
        """Takes over the parameters that were changed since the last image."""
        if config != self._config:
            self._config = config
            self._pipeline.configure(config)  # only live settings can have changed, and those it always takes

    def _look_at_the_stamp(self, stamp: int) -> None:
        self._look_for_the_same_stamp(stamp)
        self._follow_time(stamp)
        self._compare_with_the_clock(stamp)

    def _look_for_the_same_stamp(self, stamp: int) -> None:
        self._same_stamps = self._same_stamps + 1 if stamp == self._last_stamp_ns else 0
        if self._same_stamps >= _SUSPICIOUS:
            self._report(
                "stamps_stand_still",
                f"{self._same_stamps} images on {self._topics.image} had the stamp of the one before: TF has the hands "
                "of the first of them only, and motion cannot be followed; set header.stamp in the driver",
            )

    def _follow_time(self, stamp: int) -> None:
        """Resets where the stamps go back, but not for an image that only comes late."""
        last = self._last_stamp_ns
        self._last_stamp_ns = stream_time(last, stamp)
        # a simulated clock's own jumps are heard of elsewhere
        simulated = isinstance(self._clock, ROSClock) and self._clock.ros_time_is_active
        if last is not None and stamp < self._last_stamp_ns:
            self._report(
                "images_out_of_order",
                f"an image on {self._topics.image} was taken {(last - stamp) * 1e-9:.3f} s before the one that came "
                "before it (two publishers, or a driver or a recorder that mixes up their order): it is taken for as "
                "new as that one",
            )
        elif last is not None and stamp < last:
            self.reset()
            # or the robot would be where it was when this time came before. Less than a second is a matter of order
            if self._transforms is not None and last - stamp > _A_SECOND_NS and not simulated:
                self._transforms.time_jumped(last, stamp)
            self._report(
                "time_went_backwards",
                f"image stamps went back by {(last - stamp) * 1e-9:.3f} s (a bag that loops, a clock that was set, or "
                f"two publishers on {self._topics.image}): hands are followed anew",
            )
        elif self._transforms is not None and not simulated:
            self._transforms.time_goes_on(stamp)

    def _compare_with_the_clock(self, stamp: int) -> None:
        now = self._clock.now().nanoseconds
        ahead = stamp - now
        if now > 0 and ahead > _A_SECOND_NS:  # 0: use_sim_time before the first /clock
            self._report(
                "clocks_differ",
                f"image stamps are {ahead * 1e-9:.1f} s ahead of this node's clock, so latencies mean nothing: "
                "synchronise the clocks (chrony, PTP), or set use_sim_time for a bag played with --clock",
            )

    def _look_at_the_frame(self, message: ImageMessage) -> None:
        name = message.header.frame_id
        if name.startswith("/"):
            self._report(
                "bad_frame_id",
                f"the images' header.frame_id '{name}' begins with a slash, as in ROS 1: TF 2 knows no such frames, so "
                "RViz and target_frame do not find the hands; set it without the slash in the driver, or in the bag",
            )

    def _frame(self, parcel: Parcel[ImageMessage, CameraInfo]) -> Frame:
        message = parcel.image
        self._look_at_the_frame(message)
        camera = self._cameras(parcel.info)
        if skew := self._cameras.left_out:
            self._report("skewed_camera", f"{self._topics.info}: {skew}")
        require_colour(self._topics.image, message.encoding if isinstance(message, Image) else message.format)
        image = decode(message, self._bridge)
        self._frames += 1
        return Frame(
            image, camera, parcel.stamp_ns, message.header.frame_id, index=self._frames - 1, name=self._topics.image
        )

    def _placed(self, sight: Sight, header: Header, settings: NodeParameters, started: float) -> Outcome | None:
        """The hands in the frame in which they are published; None where TF cannot say where that is."""
        camera, result = sight.frame.camera, sight.result
        size, target = (camera.width, camera.height), settings.target_frame
        if self._transforms is None or not target or target == header.frame_id:
            return Outcome(size, header, result.hands, result.raw, started)
        header = Header(stamp=header.stamp, frame_id=target)
        if not (result.hands or result.raw):
            return Outcome(size, header, (), (), started)
        camera_frame, timeout_s = sight.frame.frame_id, settings.target_frame_timeout
        try:
            transform = self._transforms(target, camera_frame, sight.frame.stamp_ns, timeout_s, self._stopping)
        except TransformError as error:
            self._statistics.image_dropped(Drop.NO_TRANSFORM)
            if self._stopping.is_set():  # it might have come
                return None
            self._report(
                "no_transform",
                f"no transform from '{camera_frame}' to target_frame '{target}' at the image's stamp within "
                f"{timeout_s:g} s: {error}. The result is dropped; check the frames (ros2 run tf2_tools view_frames), "
                "raise target_frame_timeout if the transform comes late, or leave target_frame empty",
            )
            return None
        hands, raw = (tuple(moved_hand(hand, transform) for hand in hands) for hands in (result.hands, result.raw))
        return Outcome(size, header, hands, raw, started)

    def _report_failure(self, error: Exception) -> None:
        if isinstance(error, ImageError):
            self._report("bad_image", f"{self._topics.image}: {error}")
        elif isinstance(error, CameraError):
            self._report("bad_camera_info", f"{self._topics.info}: {error}")
        elif isinstance(error, WildHandsError):
            self._report("pipeline_failed", str(error))
        elif is_out_of_memory(error):
            release_gpu_memory()
            self._report(
                "out_of_memory",
                f"out of memory on an image, which is left out: {error}. End other programs on the GPU, or set "
                "estimation.device to another one or to cpu, or estimation.precision to float16",
            )
        else:
            where = "".join(traceback.format_tb(error.__traceback__)[-2:])
            self._report(
                "pipeline_failed",
                f"the pipeline failed on an image: {type(error).__name__}: {error}. The image is left out; if it goes "
                f"on, run `wildhands doctor` and report this:\n{where}",
            )
