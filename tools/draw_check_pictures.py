"""Makes the pictures with which networks are checked and calibrated: wildhands_ros/estimation/wildhands/data/hands.

Run from the repository's root: python tools/draw_check_pictures.py

Two rendered hands of one scene, of the people and things that training never sees, where their camera saw them; between
them noise with the statistics of natural pictures, as rendered samples show no more than the hands.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.estimation.wildhands.check_pictures import COUNT, FOLDER, HEIGHT, LIST, WIDTH
from wildhands_ros.evaluation.running import frame_from_scene
from wildhands_ros.rendered.generate import RenderConfig, Split, rendered_samples
from wildhands_ros.samples import Sample

SEED = 79
SEEN = 12  # joints of each hand, at least
QUALITY = 80
COLOUR = 0.3  # of the background, over its light and dark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    described: list[dict[str, object]] = []
    for number, scene in enumerate(islice(scenes(), COUNT)):
        name = f"{number:02}.jpg"
        image, scale, offset = on_background(scene, background(rng))
        cv2.imwrite(str(args.out / name), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        hands = {
            sample.side.value: {
                "box": np.round(np.reshape(sample.box, (2, 2)) * scale + offset, 1).ravel().tolist(),
                "keypoints": np.round(sample.keypoints * scale + offset, 1).tolist(),
            }
            for sample in scene
            if sample.keypoints is not None
        }
        camera = scene[0].camera
        center = np.array([camera.cx, camera.cy]) * scale + offset
        intrinsics = [camera.fx * scale, camera.fy * scale, *center]
        described.append({"file": name, "intrinsics": np.round(intrinsics, 2).tolist(), "hands": hands})
    (args.out / LIST).write_text("[\n" + ",\n".join(json.dumps(each) for each in described) + "\n]\n")
    print(f"wrote {len(described)} pictures into {args.out}")


def scenes() -> Iterator[list[Sample]]:
    """Both samples of the scenes that show two hands well through a pinhole camera, one after the other."""
    config = RenderConfig(1 << 20, SEED, Split.HELD_OUT)
    for shard in count():
        before: Sample | None = None
        for sample in rendered_samples(config, shard):
            usable = sample.visible is not None and sample.visible.sum() >= SEEN and not sample.camera.has_distortion
            if usable and before is not None and before.scene == sample.scene:
                yield [before, sample]
            before = sample if usable else None


def on_background(
    scene: list[Sample], behind: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], float, NDArray[np.float64]]:  # fmt: skip
    """The scene's picture, scaled and centred; and the scale and offset that take its pixels there."""
    frame = frame_from_scene(scene)
    height, width = frame.image.shape[:2]
    scale = min(WIDTH / width, HEIGHT / height)
    size = round(width * scale), round(height * scale)
    corner = (WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2
    picture = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    image = behind.copy()
    window = image[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]]
    shown = picture.any(axis=2, keepdims=True)
    window[:] = np.where(shown, picture, window)
    return image, scale, np.array(corner) + (scale - 1) / 2


def background(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Noise at all scales whose spectrum falls like that of natural pictures, (720, 1280, 3)."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(1, 8):
        cells = (max(2, 9 * 2**octave // 16), 2**octave)
        noise = rng.standard_normal((*cells, 1)) + COLOUR * rng.standard_normal((*cells, 3))
        noise = noise.astype(np.float32) * 1.6**-octave
        image += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    contrast, brightness = rng.uniform(30, 75), rng.uniform(80, 170)
    return np.clip(image / image.std() * contrast + brightness, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
