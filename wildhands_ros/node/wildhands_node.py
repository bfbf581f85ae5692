"""The node `wildhands`: images and camera_info in, hands in metres out."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import TypeAlias

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpHandle, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool, Trigger

from wildhands_ros.camera import is_rectified_topic
from wildhands_ros.errors import ConfigError, WildHandsError
from wildhands_ros.node import diagnostics, parameters, qos
from wildhands_ros.node.bond import Bond, open_bond
from wildhands_ros.node.captures import CaptureError, write_capture
from wildhands_ros.node.diagnostics import State
from wildhands_ros.node.executor import NodeExecutor, SlowCallbackGroup
from wildhands_ros.node.images import find_bridge
from wildhands_ros.node.input_watch import InputWatch, Surroundings
from wildhands_ros.node.inputs import CameraCache, InputTopics, calibration_of, input_topics, survey
from wildhands_ros.node.machine import memory_facts, model_facts
from wildhands_ros.node.outlets import Outlets
from wildhands_ros.node.rosout import library_messages_to
from wildhands_ros.node.signals import ignore_signals
from wildhands_ros.node.transform_buffer import TransformLookup
from wildhands_ros.node.worker import HandPipeline, ImageMessage, Worker
from wildhands_ros.pipeline import Pipeline, PipelineConfig
from wildhands_ros.texts import printable

_USAGE = """\
usage: wildhands_node [--ros-args [-r FROM:=TO] [-p NAME:=VALUE] [--params-file FILE] ...]

Finds hands in a camera's images and publishes them in metres, until it is told to stop. Topics and services are
described in docs/node.md, parameters in docs/parameters.md and config/wildhands.yaml."""

_PATIENCE_S = 4.0  # with what is still under way when told to stop; `ros2 launch` grows impatient after five seconds

PipelineFactory: TypeAlias = Callable[[PipelineConfig], HandPipeline]


def ready_pipeline(config: PipelineConfig) -> Pipeline:
    """The pipeline with its models loaded and warm. Raises what `Pipeline.from_config` raises."""
    pipeline = Pipeline.from_config(config)
    pipeline.warm_up()
    return pipeline


class WildhandsNode(LifecycleNodeMixin, Node):
    """Finds hands in a camera's images and publishes them in metres; topics, services, parameters: docs/node.md.

    A managed node: `configure` loads what is needed and announces the topics, `activate` starts listening;
    `deactivate` and `cleanup` undo them. One worker thread does all the work on an image, so that callbacks return at
    once and results are never older than necessary. Meant for a `NodeExecutor`, or rclpy's MultiThreadedExecutor.

    pipeline_factory: makes the pipeline from its configuration.
    overrides: parameter values that take precedence over the command line's.
    """

    def __init__(
        self,
        pipeline_factory: PipelineFactory = ready_pipeline,
        *,
        overrides: Iterable[RosParameter] = (),
    ) -> None:
        Node.__init__(self, "wildhands", parameter_overrides=list(overrides))
        transitions = SlowCallbackGroup()
        LifecycleNodeMixin.__init__(self, callback_group=transitions)
        self._make_pipeline = pipeline_factory
        self._state = State.UNCONFIGURED
        self._settled = False  # from the beginning of `configure` on: parameters that it reads stay as they are
        self._enabled = True
        self._failed_transition = ""
        self._statistics = diagnostics.Statistics()
        self._throttle = diagnostics.Throttle()
        self._bridge = find_bridge(self._without_bridge)
        self._watch: InputWatch | None = None
        self._model_facts: dict[str, str] = {}
        self._pipeline: HandPipeline | None = None
        self._outlets: Outlets | None = None
        self._worker: Worker | None = None
        self._transforms: TransformLookup | None = None
        self._bond: Bond | None = None
        self._subscribing = threading.Lock()
        self._subscribers: list[Subscription] = []
        self._listen_to_info: Callable[[bool], Subscription] | None = None
        self._info_is_asked_for = False  # whether camera_info from before the node listened is asked for
        self._autostart: Timer | None = None
        self._jumps: JumpHandle | None = None
        # from here on things may fail, and then rclpy destroys the node
        self._settings = parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._topics: InputTopics = input_topics(self, self._settings.image_transport, sys.argv)
        self._serve()
        profile, overriding = qos.overridable(qos.DIAGNOSTICS_OUTPUT)
        self._diagnostics = self.create_publisher(
            DiagnosticArray,
            "/diagnostics",
            profile,
            event_callbacks=qos.output_events(self, "/diagnostics", profile, self._report),
            qos_overriding_options=overriding,
        )
        # on the steady clock: problems are reported also while simulated time stands still
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        watching = MutuallyExclusiveCallbackGroup()
        self._once_a_second = self.create_timer(1.0, self._on_second, callback_group=watching, clock=steady)
        backwards = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jumps = self.get_clock().create_jump_callback(backwards, post_callback=self._on_time_jump)
        if self._settings.autostart:
            self._autostart = self.create_timer(0.0, self._start_once, callback_group=transitions, clock=steady)

    # --- lifecycle --------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the models and announces the topics. FAILURE, with the reason logged, for what is missing."""
        return self._go("configure", self._configure, self._clean_up, State.INACTIVE, State.UNCONFIGURED)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts listening to images."""
        super().on_activate(state)  # the publishers

        def undo() -> None:
            self._deactivate()
            super(WildhandsNode, self).on_deactivate(state)

        return self._go("activate", self._activate, undo, State.ACTIVE, State.INACTIVE)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops listening; returns when the image in work is done."""
        self._deactivate()
        super().on_deactivate(state)
        self._state, self._failed_transition = State.INACTIVE, ""
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lets go of models and topics."""
        self._clean_up()
        self._state, self._failed_transition = State.UNCONFIGURED, ""
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lets go of everything but the diagnostics, from any state."""
        self._tear_down()
        self._state = State.FINALIZED
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition that raised: lets go of everything, so that the node can be configured again."""
        self._failed_transition = f"a transition from {state.label} raised; the node was cleaned up"
        self._report("transition_failed", self._failed_transition)
        self._tear_down()
        self._state = State.UNCONFIGURED
        return TransitionCallbackReturn.SUCCESS

    def interrupt(self) -> None:
        """Ends what waits for images, so that an executor can be shut down at once."""
        if self._worker is not None:
            self._worker.cancel_captures("the node is being stopped")

    def destroy_node(self) -> None:
        """Stops everything in order."""
        self._tear_down()
        if self._jumps is not None:
            self._jumps.unregister()
            self._jumps = None
        super().destroy_node()

    def callback_failed(self, error: Exception) -> None:
        """Reports what a callback raised; for executors."""
        if self.context.ok():  # else it is only that ROS has been shut down
            where = "".join(traceback.format_tb(error.__traceback__)[-1:])
            self._report(
                "callback_failed",
                f"a message or a request could not be handled and was left out: {type(error).__name__}: {error}. If it "
                f"goes on, look for who sends it (ros2 topic info, ros2 node info), and report this:\n{where}",
            )

    @property
    def statistics(self) -> diagnostics.Statistics:
        """What was counted and measured so far."""
        return self._statistics

    def _go(
        self, name: str, do: Callable[[], None], undo: Callable[[], None], there: State, back: State
    ) -> TransitionCallbackReturn:
        try:
            do()
        except Exception as error:
            self._failed_transition = f"{name} failed: {_reason(error)}"
            if self.context.ok():  # else it is only that ROS has been shut down
                self._report("transition_failed", self._failed_transition)
            undo()
            self._state = back
            return TransitionCallbackReturn.FAILURE
        self._failed_transition = ""
        self._state = there
        return TransitionCallbackReturn.SUCCESS

    def _start_once(self) -> None:
        """Configures and activates the node. Raises WildHandsError if that fails, which ends the process."""
        assert self._autostart is not None
        self.destroy_timer(self._autostart)
        for transition in (self.trigger_configure, self.trigger_activate):
            if self._failed_transition or transition() is not TransitionCallbackReturn.SUCCESS:
                raise WildHandsError(self._failed_transition or "a transition failed")

    def _configure(self) -> None:
        self._settled = True
        settings = self._settings
        self._topics = input_topics(self, settings.image_transport, sys.argv)
        self._pipeline = self._make_pipeline(settings.pipeline)
        self._model_facts = model_facts(settings.pipeline, self._pipeline)
        self._outlets = Outlets(self, self._report)
        if settings.target_frame:
            self._transforms = TransformLookup.listening(self)

    def _activate(self) -> None:
        assert self._pipeline is not None and self._outlets is not None
        self._watch = InputWatch(time.monotonic())
        self._statistics.begin_anew()
        self._pipeline.reset()
        self._enabled = True
        self._worker = Worker(
            self._pipeline,
            self._outlets,
            self._topics,
            CameraCache(self._is_rectified()),
            settings=lambda: self._settings,
            statistics=self._statistics,
            report=self._report,
            clock=self.get_clock(),
            context=self.context,
            bridge=self._bridge,
            transforms=self._transforms,
        )
        self._worker.start()
        self._subscribe(self._worker, self._watch)
        period = self._settings.bond_heartbeat_period
        self._bond = open_bond(self, period, lambda text: self._report("no_bond", text))
        self.get_logger().info(f"listening to {self._topics.image} and {self._topics.info}")

    def _deactivate(self) -> None:
        with self._subscribing:
            for subscription in self._subscribers:
                self.destroy_subscription(subscription)
            self._subscribers = []
            self._listen_to_info = None
        if self._bond is not None:
            self._bond.shutdown()
            self._bond = None
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()
        self._watch = None

    def _clean_up(self) -> None:
        if self._outlets is not None:
            self._outlets.destroy()
            self._outlets = None
        if self._transforms is not None:
            self._transforms.close()
            self._transforms = None
        self._pipeline = None
        self._model_facts = {}
        self._settled = False

    def _tear_down(self) -> None:
        self._deactivate()
        self._clean_up()

    # --- inputs -----------------------------------------------------------------------------------------------------

    def _subscribe(self, worker: Worker, watch: InputWatch) -> None:
        def on_image(message: ImageMessage) -> None:
            self._statistics.image_received()
            watch.image(time.monotonic())
            worker.put_image(message)

        def on_camera_info(message: CameraInfo) -> None:
            watch.info(time.monotonic(), calibration_of(message))
            worker.put_info(message)

        def listen_to_info(before: bool) -> Subscription:
            profile = qos.LATCHED_INFO_INPUT if before else qos.INFO_INPUT
            return self._subscription(CameraInfo, self._topics.info, on_camera_info, profile, for_now=before)

        image_type = CompressedImage if self._topics.compressed else Image
        with self._subscribing:
            self._listen_to_info, self._info_is_asked_for = listen_to_info, False
            # camera_info first: an image without it would have to wait
            self._subscribers = [
                listen_to_info(False),
                self._subscription(image_type, self._topics.image, on_image, qos.IMAGE_INPUT),
            ]

    def _heed_latched_info(self, watch: InputWatch, around: Surroundings) -> None:
        """Subscribes to camera_info again where it was published once, before the node listened, so as to get that.

        Such a subscription gets nothing from publishers that offer less. So the node does not begin with it, and goes
        back to the other one as soon as another driver publishes camera_info.
        """
        with self._subscribing:
            asked_for = around.info_is_latched and (self._info_is_asked_for or not watch.hears_info(time.monotonic()))
            if self._listen_to_info is None or not around.info_publishers or asked_for == self._info_is_asked_for:
                return
            self._info_is_asked_for = asked_for
            former, self._subscribers[0] = self._subscribers[0], self._listen_to_info(asked_for)
            self.destroy_subscription(former)
        wanted = "that was published before" if asked_for else "that is published from now on, by another driver"
        self.get_logger().info(f"asking for the camera_info of {around.info_topic} {wanted}")

    def _subscription(
        self,
        kind: type,
        topic: str,
        callback: Callable[..., None],
        standard: QoSProfile,
        *,
        for_now: bool = False,
    ) -> Subscription:
        """for_now: with QoS that fits the publishers of the moment, which is no parameter's, nor worth a report."""
        profile, overriding = qos.overridable(standard)
        silent = SubscriptionEventCallbacks(use_default_callbacks=False)
        return self.create_subscription(
            kind,
            topic,
            callback,
            profile,
            callback_group=MutuallyExclusiveCallbackGroup(),
            event_callbacks=silent if for_now else qos.input_events(self, topic, profile, self._report),
            qos_overriding_options=None if for_now else overriding,
        )

    def _is_rectified(self) -> bool:
        said = self._settings.rectified
        return is_rectified_topic(self._topics.image) if said is None else said

    def _on_time_jump(self, jump: TimeJump) -> None:
        worker, transforms = self._worker, self._transforms
        if transforms is not None:
            now = self.get_clock().now().nanoseconds
            transforms.time_jumped(now - jump.delta.nanoseconds, now)
        if worker is not None:
            worker.reset()
            back_s = -jump.delta.nanoseconds * 1e-9  # 0 where use_sim_time was set: how far is unknown
            way = f"went back by {back_s:.3f} s" if back_s > 0 else "is another one"
            self._report(
                "time_went_backwards",
                f"the node's clock {way} (a bag that loops, a simulation that was reset, or use_sim_time was set): "
                "hands are followed anew",
            )

    # --- services ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        quick, slow = MutuallyExclusiveCallbackGroup(), SlowCallbackGroup()
        self.create_service(SetBool, "~/enable", self._on_enable, callback_group=quick)
        self.create_service(Trigger, "~/reset", self._on_reset, callback_group=quick)
        self.create_service(Trigger, "~/capture", self._on_capture, callback_group=slow)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        worker = self._worker
        if worker is None:
            response.message = self._not_active()
            return response
        if request.data and not self._enabled and self._watch is not None:
            self._watch.begin_anew(time.monotonic())
            self._statistics.begin_anew()
        worker.enable(request.data)
        self._enabled = bool(request.data)
        response.success = True
        response.message = "enabled" if request.data else "disabled: images are left out until it is enabled again"
        return response

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        worker = self._worker
        if worker is None:
            response.message = self._not_active()
            return response
        worker.reset()
        response.success, response.message = True, "hands are followed anew from the next image on"
        return response

    def _on_capture(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        worker, settings = self._worker, self._settings
        try:
            if worker is None:
                raise CaptureError(self._not_active())
            if not self._enabled:
                raise CaptureError("the node is disabled: call ~/enable with true first")
            sight = worker.next_sight(settings.capture_timeout)
            response.message = str(write_capture(settings.capture_dir, sight, self._diagnosis()))
            response.success = True
        except Exception as error:  # a bug report must not end the node
            response.message = _reason(error)
            self._report("capture_failed", f"~/capture: {response.message}")
        return response

    def _not_active(self) -> str:
        command = f"ros2 lifecycle set {self.get_fully_qualified_name()}"
        remedies = {
            State.UNCONFIGURED: f"configure and activate it first ({command} configure, {command} activate)",
            State.FINALIZED: "start it again",
        }
        return (
            f"the node is {self._state.value}: {remedies.get(self._state, f'activate it first ({command} activate)')}"
        )

    def _without_bridge(self, reason: str) -> None:
        self.get_logger().warning(
            f"cv_bridge is installed but does not work ({reason}), so images are decoded without it, as well: install "
            "the one that was built for this numpy, if you need it elsewhere"
        )

    # --- parameters and reports -------------------------------------------------------------------------------------

    def _on_set_parameters(self, changed: list[RosParameter]) -> SetParametersResult:
        declared = self._declared()
        if not {p.name for p in changed} & {p.name for p in declared}:  # of QoS, say, as topics come to be
            return SetParametersResult(successful=True)
        values = {p.name: self.get_parameter(p.name).value for p in declared}
        values.update({p.name: p.value for p in changed})
        try:
            settings = parameters.snapshot(values)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        refused = parameters.refused_now(self._settings, settings)
        if refused and self._settled:
            reason = f"{', '.join(refused)} can only be set while the node is unconfigured: "
            reason += "deactivate and clean it up first (ros2 lifecycle set)"
            return SetParametersResult(successful=False, reason=reason)
        self._settings = settings
        return SetParametersResult(successful=True)

    def _declared(self) -> list[parameters.Parameter]:
        return [row for row in parameters.parameter_table() if self.has_parameter(row.name)]

    def _report(self, kind: str, text: str) -> None:
        text = printable(diagnostics.shortened(text))
        self._statistics.problem(kind, text)
        line = self._throttle(kind, text)
        if line is not None:
            self.get_logger().error(line)

    def _on_second(self) -> None:
        try:
            self._diagnose()
        except Exception as error:  # an exception in a callback ends the process: not for diagnostics
            if self.context.ok():
                self._report("diagnostics_failed", f"diagnostics failed: {type(error).__name__}: {error}")

    def _diagnose(self) -> None:
        complaints = list(self._complaints())
        for kind, text in complaints:
            self._report(kind, text)
        self._diagnostics.publish(
            diagnostics.diagnostic_array(
                self.get_clock().now().to_msg(),
                self.get_fully_qualified_name(),
                self._statistics.summary(),
                self._condition("; ".join(text for _, text in complaints)),
                self._facts(),
            )
        )

    def _complaints(self) -> Iterable[tuple[str, str]]:
        watch, now = self._watch, time.monotonic()
        if watch is None or not self._enabled:  # while it is disabled, the camera may be switched off as well
            return
        around = survey(self, self._topics)
        self._heed_latched_info(watch, around)
        about_inputs = watch.complaint(now, around)
        if about_inputs is not None:
            yield about_inputs
        about_others = watch.rivalry(now, around)
        if about_others is not None:
            yield about_others
        about_crowd = watch.crowd(now, around)
        if about_crowd is not None:
            yield about_crowd
        stands_still = self.get_parameter("use_sim_time").value and self.get_clock().now().nanoseconds == 0
        if stands_still and not watch.is_early(now):  # a bag is played only once the node listens
            yield (
                "no_clock",
                "use_sim_time is set but nothing comes on /clock: play the bag with --clock, or unset it",
            )

    def _condition(self, complaint: str = "") -> diagnostics.Condition:
        return diagnostics.Condition(self._state, self._enabled, self._failed_transition, complaint)

    def _diagnosis(self) -> dict[str, str]:
        return diagnostics.diagnostic_values(self._statistics.summary(), self._condition(), self._facts())

    def _facts(self) -> dict[str, str]:
        pipeline = self._settings.pipeline
        length = pipeline.estimation.hand_length
        return {
            "image topic": self._topics.image,
            "camera_info topic": self._topics.info,
            "target frame": self._settings.target_frame,
            **self._model_facts,
            "upright rotation": f"{pipeline.upright_rotation} degrees",
            "hand length": f"{length:g} m" if length else "not measured",
            **memory_facts(),
            "images decoded by": "wildhands_ros" if self._bridge is None else "cv_bridge",
            "middleware": get_rmw_implementation_identifier(),
        }


def _reason(error: Exception) -> str:
    """An error in words: our own are made for people, of others it takes the type to understand them."""
    return str(error) if isinstance(error, WildHandsError) else f"{type(error).__name__}: {error}"


def main(args: Sequence[str] | None = None, pipeline_factory: PipelineFactory = ready_pipeline) -> int:
    """Runs the node until it is told to stop. Exit codes: 0 stopped, 1 could not start."""
    if {"-h", "--help"} & set(takewhile(lambda word: word != "--ros-args", sys.argv[1:] if args is None else args)):
        print(_USAGE)
        return 0
    qos.keep_image_buffers()
    try:
        rclpy.init(args=None if args is None else list(args))
    except Exception as error:  # of types that rclpy does not show
        remedy = "Arguments for it are written --ros-args -p parameter:=value -r topic:=other_topic"
        if "logging directory" in str(error):  # of a user without a home, or with one that nobody may write to
            remedy = "Set HOME, or ROS_LOG_DIR, to a folder that may be written to"
        print(f"wildhands cannot start, as ROS does not: {error}. {remedy}", file=sys.stderr)
        return 1
    node = None

    def on_failure(error: Exception) -> None:
        if node is None:
            raise error
        node.callback_failed(error)

    executor, code = NodeExecutor(on_failure=on_failure), 0
    try:
        node = WildhandsNode(pipeline_factory)
        executor.add_node(node)
        with library_messages_to(node.get_logger()):
            executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception as error:
        if rclpy.ok():  # else it was told to stop, and something that had begun could not be done any more
            code = 1
            print(_why_not_started(error), file=sys.stderr)
    finally:
        ignore_signals()  # ros2 launch and the terminal both send them
        if node is not None:
            node.interrupt()
        if not executor.shutdown(_PATIENCE_S):  # models are being loaded, or exported: that can take minutes
            print("wildhands was told to stop, and leaves what it had begun", file=sys.stderr, flush=True)
            os._exit(code)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return code


def _why_not_started(error: Exception) -> str:
    """Why, for the user. Raises the error itself where it is a bug of ours."""
    if isinstance(error, WildHandsError):
        return f"wildhands cannot start: {error}"
    if isinstance(error, (InvalidParameterTypeException, InvalidParameterValueException)):
        return f"wildhands cannot start, a parameter is wrong: {error}. See docs/node.md"
    if "QoS override" in str(error):  # a plain RuntimeError of rclpy, for words that no policy has
        return f"wildhands cannot start, a parameter qos_overrides.* is wrong: {error}. See docs/node.md"
    raise error


if __name__ == "__main__":
    sys.exit(main())
