"""`wildhands render`: labelled pictures of hands for training and evaluation."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    parser = subparsers.add_parser(
        "render",
        help=summary,
        description="Renders hands as head cameras see them, with exact labels, into tar shards "
        "(docs/rendered_data.md). The same seed gives the same bytes, with any number of workers. Shards that are "
        "there already are kept, so that an interrupted run can be started again, and one that is done with more "
        "samples.",
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder for the shards")
    parser.add_argument("--samples", type=int, required=True, metavar="N", help="how many hands")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--split", choices=("train", "held-out"), default="train",
        help="held-out: other people, and also textures and things that training never sees (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, metavar="W", help="processes (default: %(default)s)")
    parser.add_argument("--size-per-shard", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from wildhands_ros.errors import WildHandsError
    from wildhands_ros.libraries import needed_for

    try:
        with needed_for("rendering", "numba"):
            from wildhands_ros.rendered.generate import RenderConfig, Split, render_shards
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        raise WildHandsError(
            "numba can keep what it compiles neither beside the package nor in your home folder: name a folder that "
            "may be written in the environment variable NUMBA_CACHE_DIR"
        ) from error
    config = RenderConfig(args.samples, args.seed, Split(args.split), args.size_per_shard, args.workers)
    with tqdm(total=args.samples, unit="hand") as progress:
        left = args.samples
        for size in render_shards(config, args.out):
            progress.update(size)
            left -= size
        progress.update(left)  # what was there already
    print(f"{config.shards} shards of {args.samples} hands in {args.out}")
    return 0
