"""`wildhands export`: the network as an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

from wildhands_ros.cli.common import require_no_input, require_writable, sigterm_interrupts
from wildhands_ros.pipeline.pipeline import needs_torch


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    parser = subparsers.add_parser(
        "export",
        help=summary,
        description="Writes the WildHands network of a checkpoint as one ONNX file, float32, for any number of hands. "
        "Inputs and outputs are described in docs/wildhands.md.",
    )
    parser.add_argument("checkpoint", type=Path, help="the published file, or one in this package's format")
    parser.add_argument("onnx", type=Path, help="file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with needs_torch("wildhands export"):
        from wildhands_ros.estimation.wildhands import load_checkpoint
        from wildhands_ros.estimation.wildhands.export import export_onnx

    require_no_input(args.onnx, args.checkpoint)
    require_writable(args.onnx)
    network, info = load_checkpoint(args.checkpoint)
    with sigterm_interrupts():  # so that no unfinished file of hundreds of megabytes stays
        export_onnx(network, args.onnx)
    print(f"wrote {args.onnx} ({args.onnx.stat().st_size >> 20} MiB; trunk {info.variant.trunk.value})")
    return 0
