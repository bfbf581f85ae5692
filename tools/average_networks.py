"""The weighted mean of the weights of two networks, of which one was trained on from the other.

python tools/average_networks.py FIRST.safetensors SECOND.safetensors 0.6 OUT.safetensors --held-out samples/held_out

Share 1 gives the second, with its expected errors learned anew.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from wildhands_ros.errors import WildHandsError
from wildhands_ros.estimation.wildhands.checkpoint import load_checkpoint, save_checkpoint
from wildhands_ros.estimation.wildhands.expected_errors import FEWEST, ExpectedErrors
from wildhands_ros.estimation.wildhands.network import WildHandsNetwork
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.samples import ShardReader
from wildhands_ros.training.config import SourceConfig, TrainingConfig
from wildhands_ros.training.dataset import SampleDataset
from wildhands_ros.training.expected_errors import learn_expected_errors
from wildhands_ros.training.module import TrainingModule

_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="checkpoint in this package's format")
    parser.add_argument("second", type=Path, help="another one of the same network")
    parser.add_argument("share", type=float, help="of the second, 0 to 1")
    parser.add_argument("output", type=Path, help="file to write, in float16")
    parser.add_argument("--training-data", help="in words; default: as the second says")
    parser.add_argument(
        "--held-out", type=Path, help="shards from which it is learned how wrong hands are likely to be"
    )
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        parser.error(f"the share must lie between 0 and 1, not {args.share}")
    try:
        first, first_info = load_checkpoint(args.first)
        second, info = load_checkpoint(args.second)
        held_out = None if args.held_out is None else ShardReader(args.held_out)  # now, rather than after the work
    except WildHandsError as error:
        parser.error(str(error))
    if first_info.variant != info.variant:
        parser.error(f"{args.first} and {args.second} are different networks")
    mean = {
        name: value.lerp(second.state_dict()[name], args.share) if value.is_floating_point() else value
        for name, value in first.state_dict().items()
    }
    if args.share < 1:  # else the second to the bit
        second.load_state_dict(mean)
    # what either had learned of its own errors does not hold for the mean
    errors = None if held_out is None else _expected_errors(second, held_out)
    if held_out is not None and errors is None:
        parser.error(f"{args.held_out} teaches nothing of errors: that takes keypoints, and {FEWEST} hands with joints")
    info = replace(info, errors=errors)
    if args.training_data:
        info = replace(info, training_data=args.training_data)
    save_checkpoint(args.output, second, info, half=True)


def _expected_errors(network: WildHandsNetwork, held_out: ShardReader) -> ExpectedErrors | None:
    module = TrainingModule(network, TrainingConfig(sources=(SourceConfig(),)), load_hand_model())
    samples = SampleDataset(held_out, module.manner)
    batches = [list(range(i, min(i + _BATCH, len(samples)))) for i in range(0, len(samples), _BATCH)]
    return learn_expected_errors(module, (samples.take(batch) for batch in batches))


if __name__ == "__main__":
    main()
