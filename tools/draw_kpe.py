"""Draws docs/images/kpe.png: what KPE encodes, and why. Run from the repository's root: python tools/draw_kpe.py"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from wildhands_ros.camera import Camera
from wildhands_ros.drawing import DrawingStyle, draw_hands
from wildhands_ros.estimation.wildhands import kpe
from wildhands_ros.estimation.wildhands.places import place_crop, square_frame
from wildhands_ros.estimation.wildhands.resample import cut_sharp
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import Hand, Side
from wildhands_ros.rotations import exp_so3

OUTPUT = Path("docs/images/kpe.png")
CAMERA = Camera.pinhole(960, 540, 420)
PLACES = ((-0.42, -0.16, 0.5), (0.0, 0.02, 0.5), (0.4, 0.14, 0.5))
COLOURS = ((214, 96, 60), (60, 150, 90), (70, 110, 200))
INK, PALE, PAPER = (40, 40, 40), (150, 150, 150), (250, 250, 250)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def main() -> None:
    model = load_hand_model()
    hands = [_hand(model, place) for place in PLACES]
    style = DrawingStyle(labels=False)
    faces = {side: model.layer(side).faces for side in Side}
    scene = draw_hands(_checkerboard(), hands, CAMERA, faces, style)
    view = scene.copy()
    crops, codes, texts = [], [], []
    frame = square_frame(CAMERA)
    for hand, colour in zip(hands, COLOURS, strict=True):
        place = place_crop(frame, hand.box, 1.4)
        x, y = ((c - frame.middle) / frame.scale + h for c, h in zip(place.center, frame.half, strict=True))
        reach = place.extent / frame.scale / 2
        box = torch.tensor([[x - reach, y - reach, x + reach, y + reach]])
        angles = kpe.pinhole_angles(kpe.center_and_corners(box), torch.from_numpy(CAMERA.matrix).float())[0]
        _mark(view, box[0].tolist(), colour)
        planes = torch.from_numpy(scene).permute(2, 0, 1).float()
        crops.append(cut_sharp(planes, (x, y), 2 * reach).permute(1, 2, 0).round().byte().numpy())
        codes.append(kpe.encode_points(angles).numpy())
        texts.append(np.degrees(angles[0].numpy()))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(OUTPUT), cv2.cvtColor(_page(view, crops, codes, texts), cv2.COLOR_RGB2BGR))
    print(f"wrote {OUTPUT}")


def _hand(model, place) -> Hand:
    """The same hand, turned the same way in the camera's frame, at another place."""
    pose = np.tile(np.eye(3), (16, 1, 1))
    pose[0] = exp_so3([0, 0, np.pi / 2]) @ exp_so3([np.pi / 2, 0, 0])
    layer = model.layer(Side.RIGHT)
    _, joints = layer.numpy(pose, np.zeros(10), np.zeros(3))
    translation = np.array(place) - joints[9]
    vertices, joints = layer.numpy(pose, np.zeros(10), translation)
    pixels = CAMERA.project(vertices)
    return Hand(
        Side.RIGHT, 1.0, (*pixels.min(axis=0), *pixels.max(axis=0)), joints, CAMERA.project(joints), pose, np.zeros(10),
        translation, "", "open", vertices=vertices,
    )  # fmt: skip


def _checkerboard() -> np.ndarray:
    """A wall that faces the camera: its squares stay squares, hands before it do not stay alike."""
    v, u = np.mgrid[0 : CAMERA.height, 0 : CAMERA.width]
    squares = ((u - 479) // 60 + (v - 269) // 60) % 2
    return np.repeat((205 + 22 * squares)[..., None], 3, axis=2).astype(np.uint8)


def _mark(view: np.ndarray, box: list[float], colour: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = (round(v) for v in box)
    axis = (round(CAMERA.cx), round(CAMERA.cy))
    cv2.drawMarker(view, axis, INK, cv2.MARKER_CROSS, 22, 2, cv2.LINE_AA)
    center = ((x0 + x1) // 2, (y0 + y1) // 2)
    cv2.line(view, axis, center, colour, 2, cv2.LINE_AA)
    cv2.rectangle(view, (x0, y0), (x1, y1), colour, 3, cv2.LINE_AA)
    for point in (center, (x0, y0), (x0, y1), (x1, y0), (x1, y1)):
        cv2.circle(view, point, 7, PAPER, -1, cv2.LINE_AA)
        cv2.circle(view, point, 5, colour, -1, cv2.LINE_AA)


def _page(view: np.ndarray, crops: list[np.ndarray], codes: list[np.ndarray], texts: list[np.ndarray]) -> np.ndarray:
    page = np.full((1130, 1040, 3), 255, np.uint8)
    _text(page, "One hand, turned the same way, in three places of a wide view", (40, 40), 0.75, INK)
    page[60:600, 40:1000] = view
    _text(page, "Its crops look like three different hands: only the place tells why.", (40, 640), 0.6, INK)
    for i, (crop, code, degrees) in enumerate(zip(crops, codes, texts, strict=True)):
        x = 40 + 330 * i
        page[660:884, x + 40 : x + 264] = crop
        cv2.rectangle(page, (x + 40, 660), (x + 264, 884), COLOURS[i], 3)
        _text(page, f"centre at {degrees[0]:+.0f}, {degrees[1]:+.0f} degrees", (x + 40, 912), 0.55, COLOURS[i])
        _bars(page, code, x, 960, COLOURS[i])
    note = "KPE: 80 numbers beside the features of the crop. Grey: centre (16). White: corners (64)."
    _text(page, note, (40, 1105), 0.55, INK)
    return page


def _bars(page: np.ndarray, code: np.ndarray, x: int, y: int, colour: tuple[int, int, int]) -> None:
    middle, width = y + 50, 300 / 80
    cv2.rectangle(page, (x, y), (x + 60, y + 100), (235, 235, 235), -1)
    cv2.line(page, (x, middle), (x + 300, middle), PALE, 1)
    for k, value in enumerate(code):
        left, top = round(x + k * width), round(middle - 48 * value)
        cv2.rectangle(page, (left, min(middle, top)), (round(left + width) - 2, max(middle, top)), colour, -1)


def _text(page: np.ndarray, text: str, at: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    cv2.putText(page, text, at, FONT, size, colour, 1, cv2.LINE_AA)


if __name__ == "__main__":
    main()
