"""`wildhands ablate`: the paper's claims, tried on our own renders."""

from __future__ import annotations

import argparse
from pathlib import Path

from wildhands_ros.cli.common import add_table, make_room, write_table
from wildhands_ros.cli.light import add_models_dir
from wildhands_ros.errors import WildHandsError
from wildhands_ros.libraries import TRAINING, needed_for


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    parser = subparsers.add_parser(
        "ablate",
        help=summary,
        description="Trains the same network with each way of encoding its crop's place, several times with different "
        "seeds, and prints what came out beside the paper's numbers (docs/ablation.md). Finished runs are kept, so an "
        "interrupted comparison goes on where it was.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="training configuration that all runs share")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="a folder for each run goes in here")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="only these (default: all but 'input')")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="S", help="default: 1 2 3")
    parser.add_argument(
        "--auxiliary", action="store_true",
        help="instead: 3D labels on the first source only, with and without masks and grasps of the second",
    )  # fmt: skip
    add_table(parser)
    add_models_dir(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.auxiliary and args.variants:
        raise WildHandsError("--auxiliary compares runs of its own, not variants: leave out --variants")
    with needed_for("training", TRAINING):
        from wildhands_ros.training.ablation import VARIANTS, ablation_table, run_ablation, run_auxiliary
        from wildhands_ros.training.config import read_training_config
        from wildhands_ros.training.run import is_first_process
    from wildhands_ros.detection.models import LANDMARK_MODEL, load_model
    from wildhands_ros.hand_model import load_hand_model

    make_room(args.table)
    config, hand_model = read_training_config(args.config), load_hand_model()
    weights = load_model(LANDMARK_MODEL, args.models_dir) if config.network.landmark_trunk else None
    seeds = list(dict.fromkeys(args.seeds))  # one run must not count twice in the means
    if args.auxiliary:
        runs = run_auxiliary(config, args.out, hand_model, weights, seeds)
    else:
        chosen = args.variants or [name for name in VARIANTS if name != "input"]
        runs = run_ablation(config, args.out, hand_model, weights, chosen, seeds)
    results = []
    for result in runs:
        results.append(result)
        if is_first_process():
            print(f"{result.variant} (seed {result.seed}): MPJPE {result.means['mpjpe_mm']:.1f} mm", flush=True)
    if not is_first_process():
        return 0
    table = ablation_table(results)
    print(f"\n{table}")
    write_table(table, args.table)
    return 0
