"""Hands and pipelines with known results, and processes that use them: `python node_fakes.py KIND [ROS arguments]`.

KIND: `fake` or `slow`, the node with a fake pipeline (slow: 200 ms an image), `real`, the node as it is, or `camera` or
`rendered`, which publish images.

The fake pipeline can be steered by the picture: a black one has no hands, one with a pure red first pixel makes it
fail, a pure blue one makes it run out of GPU memory. Its hands tell what it saw: `translation` is the picture's mean
colour, `betas` hold its camera, `track_id` the number of resets, and `hand_model` the configured device. It cannot be
made with a checkpoint that is not there.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

import numpy as np

from wildhands_ros.errors import ModelFileError
from wildhands_ros.frames import Frame
from wildhands_ros.hands import FINGERS, Hand, Side
from wildhands_ros.pipeline import PipelineConfig, PipelineResult

FACES = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]], dtype=np.int32)


def make_joints(side: Side) -> np.ndarray:
    """A flat hand (21, 3) before the camera with its back towards it, fingers up in the picture."""
    sign = 1.0 if side is Side.RIGHT else -1.0  # with its back to us, a right hand's thumb is on the left
    joints = np.zeros((21, 3))
    for i, finger in enumerate(FINGERS.values()):
        across = sign * (-0.04 + 0.02 * i)
        for k, joint in enumerate(finger):
            joints[joint] = across, -0.08 - 0.025 * k if i else -0.02 - 0.02 * k, 0.0
    return joints + [0.1 * sign, 0.05, 0.4]


def make_hand(side: Side = Side.RIGHT, **changes: object) -> Hand:
    joints = make_joints(side)
    hand = Hand(
        side=side,
        score=0.9,
        box=(10.0, 20.0, 110.0, 140.0),
        joints=joints,
        keypoints=joints[:, :2] / joints[:, 2:] * 200 + 160,
        pose=np.tile(np.eye(3), (16, 1, 1)),
        betas=np.zeros(10),
        translation=np.array([0.1, 0.2, 0.3]),
        estimator="fake",
        hand_model="tetrahedron",
        vertices=joints[[0, 5, 9, 17]],
        side_probability=0.8,
        reprojection_error=1.5,
        expected_error=0.0125,
        track_id=0 if side is Side.LEFT else 1,
    )
    return dataclasses.replace(hand, **changes)


class FakePipeline:
    """delay_s: how long a picture takes. held: while there is this file, pictures that have begun do not end."""

    def __init__(self, config: PipelineConfig, delay_s: float = 0.0, held: Path | None = None) -> None:
        checkpoint = config.estimation.checkpoint
        if checkpoint is not None and not checkpoint.is_file():
            raise ModelFileError(f"there is no checkpoint {checkpoint}: train one")
        self.config = config
        self.delay_s, self._held = delay_s, held
        self.resets = 0

    @property
    def faces(self) -> dict[Side, np.ndarray]:
        return {side: FACES for side in Side}

    def reset(self) -> None:
        self.resets += 1

    def configure(self, config: PipelineConfig) -> bool:
        self.config = config
        return True

    def process(self, frame: Frame) -> PipelineResult:
        if tuple(frame.image[0, 0]) == (255, 0, 0):
            raise RuntimeError("red")
        if tuple(frame.image[0, 0]) == (0, 0, 255):
            import torch

            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        time.sleep(self.delay_s)
        if self._held is not None and self._held.exists():
            print("working", flush=True)
            while self._held.exists():
                time.sleep(0.005)
        camera = frame.camera
        betas = np.zeros(10)
        betas[:6] = camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy
        betas[6] = self.config.min_score
        colour = frame.image.reshape(-1, 3).mean(axis=0)
        hands = tuple(
            make_hand(
                side,
                translation=colour,
                betas=betas,
                track_id=self.resets,
                hand_model=self.config.estimation.device,
            )
            for side in Side
            if frame.image.any()
        )
        return PipelineResult(
            stamp_ns=frame.stamp_ns, hands=hands, raw=hands, boxes=(), skipped=(), timings={"detect": self.delay_s}
        )


def _held() -> Path | None:
    named = os.environ.get("WILDHANDS_TEST_HELD")  # of processes that `node_bench` has started
    return Path(named) if named else None


def fake_pipeline(config: PipelineConfig) -> FakePipeline:
    return FakePipeline(config, held=_held())


def slow_pipeline(config: PipelineConfig) -> FakePipeline:
    return FakePipeline(config, delay_s=0.2)


def camera(arguments: list[str]) -> int:
    """Publishes images as camera drivers do: best effort, 30 Hz.

    arguments: `--results N` for 1280×720 until N results came, else 1920×1080 for ever; then ROS arguments.
    """
    import rclpy
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CameraInfo, Image

    from wildhands_ros.msg import HandPoseArray
    from wildhands_ros.node.signals import spin_until_stopped

    wanted = int(arguments[1]) if arguments[:1] == ["--results"] else 0
    rclpy.init(args=arguments)
    node = Node("camera")
    images = node.create_publisher(Image, "image_raw", qos_profile_sensor_data)
    infos = node.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)
    results: list[HandPoseArray] = []
    node.create_subscription(HandPoseArray, "/wildhands/hands", results.append, 10)
    width, height = (1280, 720) if wanted else (1920, 1080)
    image = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    image.data.frombytes(np.full(height * width * 3, 90, np.uint8))
    info = CameraInfo(height=height, width=width, k=[600.0, 0.0, 640.0, 0.0, 600.0, 360.0, 0.0, 0.0, 1.0])
    image.header.frame_id = info.header.frame_id = "camera_optical_frame"

    def publish() -> None:
        image.header.stamp = info.header.stamp = node.get_clock().now().to_msg()
        infos.publish(info)
        images.publish(image)
        if wanted and len(results) >= wanted:
            print(f"{wanted} results", flush=True)

    node.create_timer(1 / 30, publish)
    spin_until_stopped(node)
    return 0


if __name__ == "__main__":
    kind, rest = sys.argv[1], sys.argv[2:]
    if kind == "camera":
        sys.exit(camera(rest))
    if kind == "rendered":
        from survival_soak import rendered_camera

        sys.exit(rendered_camera(rest))
    from wildhands_ros.node import qos
    from wildhands_ros.node.wildhands_node import main

    if kind == "real":
        if "MALLOC_MMAP_THRESHOLD_" in os.environ:  # which the node's own choice would outdo
            qos.keep_image_buffers = lambda: False
        sys.exit(main(rest))
    sys.exit(main(rest, {"fake": fake_pipeline, "slow": slow_pipeline}[kind]))
