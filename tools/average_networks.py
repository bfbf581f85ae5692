"""The weighted mean of the weights of two networks, of which one was trained on from the other.

python tools/average_networks.py FIRST.safetensors SECOND.safetensors 0.6 OUT.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from wildhands_ros.estimation.wildhands.checkpoint import load_checkpoint, save_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="checkpoint in this package's format")
    parser.add_argument("second", type=Path, help="another one of the same network")
    parser.add_argument("share", type=float, help="of the second, 0 to 1")
    parser.add_argument("output", type=Path, help="file to write, in float16")
    parser.add_argument("--training-data", help="in words; default: as the second says")
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        parser.error(f"the share must lie between 0 and 1, not {args.share}")
    first, first_info = load_checkpoint(args.first)
    second, info = load_checkpoint(args.second)
    if first_info.variant != info.variant:
        parser.error(f"{args.first} and {args.second} are different networks")
    mean = {
        name: value.lerp(second.state_dict()[name], args.share) if value.is_floating_point() else value
        for name, value in first.state_dict().items()
    }
    second.load_state_dict(mean)
    if args.training_data:
        info = replace(info, training_data=args.training_data)
    save_checkpoint(args.output, second, info, half=True)


if __name__ == "__main__":
    main()
