"""`wildhands train`: a network from samples."""

from __future__ import annotations

import argparse
from pathlib import Path

from wildhands_ros.cli.light import add_models_dir


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    parser = subparsers.add_parser(
        "train",
        help=summary,
        description="Trains the network that a YAML file describes (docs/training.md). Started again with the same "
        "folder it goes on where it was interrupted. OUT_DIR/network.safetensors is the result, for --checkpoint.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML, see config/training/")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder of this run")
    parser.add_argument("--steps", type=int, metavar="N", help="instead of the configuration's")
    parser.add_argument("--seed", type=int, metavar="S", help="instead of the configuration's")
    parser.add_argument(
        "--minutes", type=float, metavar="M",
        help="train no longer than this, with the best there is then; what is cached before, and the directions "
        "afterwards, take their own time",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="write the checkpoint in float16, half as large")
    add_models_dir(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from wildhands_ros.libraries import TRAINING, needed_for

    with needed_for("training", TRAINING):
        from wildhands_ros.training.config import read_training_config
        from wildhands_ros.training.run import is_first_process, train
    from wildhands_ros.detection.models import LANDMARK_MODEL, load_model
    from wildhands_ros.hand_model import load_hand_model

    config = read_training_config(args.config, steps=args.steps, seed=args.seed, stop_minutes=args.minutes)
    result = train(
        config,
        args.out,
        load_hand_model(),
        load_model(LANDMARK_MODEL, args.models_dir) if config.network.landmark_trunk else None,
        models_dir=args.models_dir,
        half=args.half,
    )
    if not is_first_process():
        return 0
    print(f"{result.steps} steps; on the validation samples:")
    for name, value in result.errors.items():
        print(f"  {name:18s} {value:8.2f}")
    print(f"wrote {result.network}")
    return 0
