"""The node `wildhands`: images and camera_info in, hands in metres out."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from wildhands_ros.errors import CameraError, ConfigError, ImageError, WildHandsError
from wildhands_ros.frames import Frame
from wildhands_ros.hands import Side
from wildhands_ros.node import diagnostics, parameters, qos
from wildhands_ros.node.images import decode, find_bridge
from wildhands_ros.node.inbox import Inbox, Parcel
from wildhands_ros.node.inputs import CameraCache, InputTopics, input_topics, survey
from wildhands_ros.node.messages import stamp_ns
from wildhands_ros.node.outlets import Outcome, Outlets
from wildhands_ros.pipeline import Pipeline, PipelineConfig, PipelineResult

ImageMessage: TypeAlias = Image | CompressedImage


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


PipelineFactory: TypeAlias = Callable[[PipelineConfig], HandPipeline]


class WildhandsNode(Node):
    """Finds hands in a camera's images and publishes them in metres; topics and parameters: docs/node.md.

    `configure` loads what is needed, `activate` starts listening; `deactivate` and `cleanup` undo them. One worker
    thread does all the work on an image, so that callbacks return at once and results are never older than necessary.

    pipeline_factory: makes the pipeline from its configuration.
    overrides: parameter values that take precedence over the command line's.
    """

    def __init__(
        self,
        pipeline_factory: PipelineFactory = Pipeline.from_config,
        *,
        overrides: Iterable[RosParameter] = (),
        cli_args: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            "wildhands", parameter_overrides=list(overrides), cli_args=None if cli_args is None else list(cli_args)
        )
        self._make_pipeline = pipeline_factory
        self._settings = parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._topics: InputTopics = input_topics(self, self._settings.image_transport)
        self._statistics = diagnostics.Statistics()
        self._throttle = diagnostics.Throttle()
        self._bridge = find_bridge()
        self._pipeline: HandPipeline | None = None
        self._pipeline_config = self._settings.pipeline
        self._outlets: Outlets | None = None
        self._subscribers: list[Subscription] = []
        self._once_a_second: Timer | None = None
        self._worker: threading.Thread | None = None
        self._inbox: Inbox[ImageMessage, CameraInfo] = Inbox()
        self._watch = diagnostics.InputWatch(time.monotonic())
        self._cameras = CameraCache(self._is_rectified())
        self._last_stamp_ns: int | None = None
        self._frames = 0

    # --- states -----------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Loads the models and announces the topics. Raises ModelFileError for what is missing."""
        self._pipeline = self._make_pipeline(self._settings.pipeline)
        self._pipeline_config = self._settings.pipeline
        self._outlets = Outlets(self, self._report)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def activate(self) -> None:
        """Starts listening to images."""
        self._inbox = Inbox()
        self._watch = diagnostics.InputWatch(time.monotonic())
        self._worker = threading.Thread(target=self._work, name="wildhands", daemon=True)
        self._worker.start()
        self._subscribe()
        # on the steady clock: also a simulation that stands still must hear what is wrong
        self._once_a_second = self.create_timer(1.0, self._on_second, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"listening to {self._topics.image} and {self._topics.info}")

    def deactivate(self) -> None:
        """Stops listening; returns when the image in work is done."""
        for subscription in self._subscribers:
            self.destroy_subscription(subscription)
        self._subscribers = []
        if self._once_a_second is not None:
            self.destroy_timer(self._once_a_second)
            self._once_a_second = None
        self._inbox.close()
        if self._worker is not None:
            self._worker.join()
            self._worker = None

    def cleanup(self) -> None:
        """Lets go of models and topics."""
        if self._outlets is not None:
            self._outlets.destroy()
            self.destroy_publisher(self._diagnostics)
            self._outlets = None
        self._pipeline = None

    def destroy_node(self) -> None:
        """Stops everything in order."""
        self.deactivate()
        self.cleanup()
        super().destroy_node()

    @property
    def statistics(self) -> diagnostics.Statistics:
        """What was counted and measured so far."""
        return self._statistics

    # --- inputs (executor's thread) ---------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        compressed = self._settings.image_transport == "compressed"
        image_type = CompressedImage if compressed else Image
        # camera_info first: an image without it would have to wait
        self._subscribers = [
            self._subscription(CameraInfo, self._topics.info, self._on_camera_info, qos.INFO_INPUT),
            self._subscription(image_type, self._topics.image, self._on_image, qos.IMAGE_INPUT),
        ]

    def _subscription(self, kind: type, topic: str, callback: Callable[..., None], profile: QoSProfile) -> Subscription:
        def on_incompatible(event: object) -> None:
            policy = QoSPolicyKind(getattr(event, "last_policy_kind", QoSPolicyKind.INVALID))
            publishers = qos.publishers_of(self, topic)
            self._report("input_qos_mismatch", qos.input_mismatch(topic, policy, subscription.qos_profile, publishers))

        subscription = self.create_subscription(
            kind,
            topic,
            callback,
            profile,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=on_incompatible),
            qos_overriding_options=QoSOverridingOptions(
                [QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY, QoSPolicyKind.DEPTH]
            ),
        )
        return subscription

    def _on_image(self, message: ImageMessage) -> None:
        dropped = self._inbox.put_image(message, stamp_ns(message.header.stamp))
        self._statistics.image_received(dropped_another=dropped)
        self._watch.image(time.monotonic())

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._inbox.put_info(message, stamp_ns(message.header.stamp))
        self._watch.info(time.monotonic())

    # --- work (worker's thread) -------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (parcel := self._inbox.take()) is not None:
            try:
                self._process(parcel)
            except Exception as error:  # whatever one image does must not stop the next
                if not self.context.ok():
                    return
                self._statistics.image_failed()
                self._report_failure(error)

    def _process(self, parcel: Parcel[ImageMessage, CameraInfo]) -> None:
        assert self._outlets is not None
        started = time.perf_counter()
        settings = self._settings
        pipeline = self._current_pipeline(settings.pipeline)
        self._check_stamp(parcel.stamp_ns, pipeline)
        frame = self._frame(parcel)
        decoded = time.perf_counter()
        result = pipeline.process(frame)
        processed = time.perf_counter()
        self._outlets.publish(Outcome(frame, parcel.image.header, result, pipeline.faces, started), settings)
        timings = {
            "convert": decoded - started,
            **{stage: seconds for stage, seconds in result.timings.items() if stage != "total"},
            "publish": time.perf_counter() - processed,
        }
        self._statistics.result_published(len(result.hands), time.monotonic() - parcel.received, timings)

    def _frame(self, parcel: Parcel[ImageMessage, CameraInfo]) -> Frame:
        message = parcel.image
        camera = self._cameras(parcel.info)
        image = decode(message, self._bridge)
        self._frames += 1
        return Frame(
            image, camera, parcel.stamp_ns, message.header.frame_id, index=self._frames - 1, name=self._topics.image
        )

    def _current_pipeline(self, config: PipelineConfig) -> HandPipeline:
        """The pipeline, with the parameters that were changed since the last image."""
        assert self._pipeline is not None
        if config != self._pipeline_config:
            self._pipeline_config = config  # also if making it fails: the old one goes on
            if not self._pipeline.configure(config):
                self._pipeline = self._make_pipeline(config)
        return self._pipeline

    def _check_stamp(self, stamp: int, pipeline: HandPipeline) -> None:
        last, self._last_stamp_ns = self._last_stamp_ns, stamp
        if last is not None and stamp < last:
            pipeline.reset()
            self._report(
                "time_went_backwards",
                f"image stamps went back by {(last - stamp) * 1e-9:.3f} s (a bag that loops, a clock that was set, or "
                f"two publishers on {self._topics.image}): hands are followed anew",
            )
        ahead = stamp - self.get_clock().now().nanoseconds
        if ahead > 10**9:
            self._report(
                "clocks_differ",
                f"image stamps are {ahead * 1e-9:.1f} s ahead of this node's clock, so latencies mean nothing: "
                "synchronise the clocks (chrony, PTP), or set use_sim_time for a bag played with --clock",
            )

    def _report_failure(self, error: Exception) -> None:
        if isinstance(error, ImageError):
            self._report("bad_image", f"{self._topics.image}: {error}")
        elif isinstance(error, CameraError):
            self._report("bad_camera_info", f"{self._topics.info}: {error}")
        elif isinstance(error, WildHandsError):
            self._report("pipeline_failed", str(error))
        else:
            where = "".join(traceback.format_tb(error.__traceback__)[-2:])
            self._report(
                "pipeline_failed",
                f"the pipeline failed on an image: {type(error).__name__}: {error}. The image is left out; if it goes "
                f"on, run `wildhands doctor` and report this:\n{where}",
            )

    # --- parameters and reports -------------------------------------------------------------------------------------

    def _on_set_parameters(self, changed: list[RosParameter]) -> SetParametersResult:
        values = {p.name: self.get_parameter(p.name).value for p in self._declared()}
        values.update({p.name: p.value for p in changed})
        try:
            self._settings = parameters.snapshot(values)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _declared(self) -> list[parameters.Parameter]:
        return [row for row in parameters.parameter_table() if self.has_parameter(row.name)]

    def _is_rectified(self) -> bool | None:
        if self._settings.rectified is None and self._topics.names_rectified_images:
            return True
        return self._settings.rectified

    def _report(self, kind: str, text: str) -> None:
        self._statistics.problem(kind, text)
        line = self._throttle(kind, text)
        if line is not None:
            self.get_logger().error(line)

    def _on_second(self) -> None:
        around = survey(self, self._topics)
        found = (self._watch.complaint(time.monotonic(), around), self._clock_complaint())
        complaints = [complaint for complaint in found if complaint is not None]
        for kind, text in complaints:
            self._report(kind, text)
        self._diagnostics.publish(
            diagnostics.diagnostic_array(
                self.get_clock().now().to_msg(),
                self.get_fully_qualified_name(),
                self._statistics.summary(),
                "; ".join(text for _, text in complaints) or None,
                self._facts(),
            )
        )

    def _clock_complaint(self) -> tuple[str, str] | None:
        if self.get_parameter("use_sim_time").value and self.get_clock().now().nanoseconds == 0:
            return "no_clock", "use_sim_time is set but nothing comes on /clock: play the bag with --clock, or unset it"
        return None

    def _facts(self) -> dict[str, str]:
        config = self._pipeline_config
        return {
            "image topic": self._topics.image,
            "camera_info topic": self._topics.info,
            "estimator": config.estimation.estimator,
            "hand model": "open" if config.estimation.mano_dir is None else str(config.estimation.mano_dir),
            "detector models": str(config.models_dir),
            "images decoded by": "wildhands_ros" if self._bridge is None else "cv_bridge",
            "middleware": get_rmw_implementation_identifier(),
        }


def main(args: Sequence[str] | None = None, pipeline_factory: PipelineFactory = Pipeline.from_config) -> int:
    """Runs the node until it is told to stop. Exit codes: 0 stopped, 1 could not start."""
    qos.keep_image_buffers()
    rclpy.init(args=None if args is None else list(args))
    node = None
    try:
        node = WildhandsNode(pipeline_factory)
        node.configure()
        node.activate()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except WildHandsError as error:
        print(f"wildhands cannot start: {error}", file=sys.stderr)
        return 1
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"wildhands cannot start, a parameter is wrong: {error}. See docs/node.md", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ros2 launch and the terminal both send it
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # rclpy has just put back what was there before
    return 0


if __name__ == "__main__":
    sys.exit(main())
