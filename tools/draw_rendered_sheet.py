"""Draws docs/images/rendered_sheet.jpg. Run from the repository's root: python tools/draw_rendered_sheet.py"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from wildhands_ros.rendered.generate import RenderConfig, Split, rendered_samples

OUTPUT = Path("docs/images/rendered_sheet.jpg")
COLUMNS, ROWS = 12, 8
EDGE = 168


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--split", choices=[split.value for split in Split], default=Split.TRAIN.value)
    parser.add_argument("--out", type=Path, default=OUTPUT)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    config = RenderConfig(COLUMNS * ROWS, args.seed, Split(args.split))
    pictures = [
        cv2.resize(sample.image, (EDGE, EDGE), interpolation=cv2.INTER_AREA) for sample in rendered_samples(config, 0)
    ]
    sheet = np.vstack([np.hstack(pictures[row * COLUMNS : (row + 1) * COLUMNS]) for row in range(ROWS)])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
