"""The MediaPipe hand landmark network up to its last feature map, as a trainable torch trunk.

The open weights (Apache-2.0) are those that the detector uses; `load_landmark_weights` reads them from the .tflite
file. Batch norms are folded into the convolutions there, so this network has biases instead.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wildhands_ros.errors import ModelFileError
from wildhands_ros.estimation.wildhands.trunks import FeatureTrunk, picture_mean_std
from wildhands_ros.libraries import how_to_get

# (width of the depthwise layer, its kernel, its stride, channels out) of every block
_BLOCKS = (
    (24, 3, 1, 16),
    (64, 3, 2, 24), (144, 3, 1, 24),
    (144, 5, 2, 40), (240, 5, 1, 40),
    (240, 3, 2, 80), (480, 3, 1, 80), (480, 3, 1, 80),
    (480, 5, 1, 112), (672, 5, 1, 112), (672, 5, 1, 112),
    (672, 5, 2, 192), (1152, 5, 1, 192), (1152, 5, 1, 192), (1152, 5, 1, 192),
)  # fmt: skip
BLOCK_COUNT = len(_BLOCKS)


class LandmarkTrunk(FeatureTrunk):
    """(N, inputs, 224, 224) pictures, normalised like every trunk's, → (N, 1152, 7, 7)."""

    channels = 1152

    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.set_colours()
        self.stem = _SameConv(inputs, 24, 3, 2)
        channels, blocks = 24, []
        for width, kernel, stride, outputs in _BLOCKS:
            blocks.append(_Block(channels, width, kernel, stride, outputs))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        features = LandmarkTrunk.channels
        self.expand = nn.Conv2d(channels, features, 1)
        self.depthwise = _SameConv(features, features, 3, 1, features)

    def set_colours(self) -> None:
        """Makes the constants that turn normalised pictures back into 0 to 1; they are in no checkpoint."""
        mean, std = picture_mean_std()
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.early(x, len(self.blocks)), len(self.blocks))

    def early(self, x: Tensor, blocks: int) -> Tensor:
        """Pictures → what comes out of the first `blocks` blocks. Training keeps them fixed and computes them once."""
        # the network's own pictures are 0 to 1; further channels (an encoding) stay as they are
        picture = x[:, :3] * self.std + self.mean
        x = picture if x.shape[1] == 3 else torch.cat([picture, x[:, 3:]], dim=1)
        return self.blocks[:blocks](_relu6(self.stem(x)))

    def late(self, x: Tensor, blocks: int) -> Tensor:
        """What comes out of the first `blocks` blocks → features."""
        return _relu6(self.depthwise(_relu6(self.expand(self.blocks[blocks:](x)))))


FINE_CHANNELS, FINE_AFTER = 112, 11
"""Channels of the last 14×14 map, and after how many blocks it comes."""


class FineLandmarkTrunk(LandmarkTrunk):
    """The same network → (N, 1152 + 448, 7, 7): its features, then its last 14×14 map, four places to a cell."""

    channels = LandmarkTrunk.channels + 4 * FINE_CHANNELS

    def late(self, x: Tensor, blocks: int) -> Tensor:
        if blocks > FINE_AFTER:
            raise ValueError(f"the 14×14 map comes after {FINE_AFTER} blocks, not after {blocks}")
        fine = self.blocks[blocks:FINE_AFTER](x)
        features = super().late(fine, FINE_AFTER)
        return torch.cat([features, nn.functional.pixel_unshuffle(fine, 2)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.early(x, FINE_AFTER), FINE_AFTER)

    @staticmethod
    def split(maps: Tensor) -> tuple[Tensor, Tensor]:
        """The two that it gives together: features (N, 1152, 7, 7) and the finer map (N, 112, 14, 14)."""
        deep, fine = maps.split([LandmarkTrunk.channels, 4 * FINE_CHANNELS], dim=1)
        return deep, nn.functional.pixel_shuffle(fine, 2)


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, kernel: int, stride: int, outputs: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(inputs, width, 1) if width != inputs else None
        self.depthwise = _SameConv(width, width, kernel, stride, width)
        self.project = nn.Conv2d(width, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else _relu6(self.expand(x))
        y = self.project(_relu6(self.depthwise(y)))
        return y + x if self.residual else y


class _SameConv(nn.Conv2d):
    """TensorFlow's 'same' padding for inputs that are multiples of the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        total = kernel - stride
        even = total % 2 == 0  # then the convolution pads by itself, without a copy of its input
        super().__init__(inputs, outputs, kernel, stride, total // 2 if even else 0, groups=groups)
        self._edges = (0,) * 4 if even else (total // 2, total - total // 2, total // 2, total - total // 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None or self.weight.requires_grad or not (torch.is_grad_enabled() and self.bias.requires_grad):
            return super().forward(self._padded(x))
        # a spatial filter that stays fixed under a bias that is trained: asked for the bias's gradient, the layer would
        # compute the filter's too, which takes a processor seven times as long as all the rest of its way back
        y = self._strided(x) if any(self._edges) and x.dtype != torch.float32 else self._filtered(self._padded(x))
        return y.add_(self.bias.to(y.dtype)[:, None, None])  # a float32 bias would make all that follows float32

    def _padded(self, x: Tensor) -> Tensor:
        # the zero is written out for the export: ONNX Runtime makes padding part of a convolution only where it stands,
        # and copies and reorders whole maps otherwise, a seventh of the network's time
        return nn.functional.pad(x, self._edges, value=0.0) if any(self._edges) else x

    def _filtered(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight, None)

    def _strided(self, x: Tensor) -> Tensor:
        """The same as the places that count of a convolution without stride, whose way back in half precision takes
        processors a fifth of the time."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        first = kernel // 2 - self._edges[0]
        every = nn.functional.conv2d(x, self.weight, None, 1, kernel // 2, 1, self.groups)
        return every[:, :, first::stride, first::stride].contiguous(memory_format=torch.channels_last)


def _relu6(x: Tensor) -> Tensor:
    return nn.functional.relu6(x, inplace=True)  # always on a convolution's fresh output


def load_landmark_weights(trunk: LandmarkTrunk, content: bytes) -> None:
    """Fills a trunk with the weights of hand_landmark_full.tflite, given as bytes.

    The channels of an encoding at the input start at zero, so that they change nothing before training.
    Raises ModelFileError where the content is another network.
    """
    layers = [m for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    found = _convolutions(content)
    if len(found) != len(layers):
        raise ModelFileError(f"not the hand landmark network: {len(found)} convolutions, expected {len(layers)}")
    with torch.no_grad():
        for index, (layer, (weight, bias)) in enumerate(zip(layers, found, strict=True)):
            # TensorFlow: (out, h, w, in), depthwise (1, h, w, channels)
            weight = weight.transpose(3, 0, 1, 2) if layer.groups > 1 else weight.transpose(0, 3, 1, 2)
            expected = tuple(layer.weight.shape)
            if index == 0 and expected[1] > 3:
                weight = np.pad(weight, ((0, 0), (0, expected[1] - 3), (0, 0), (0, 0)))
            if weight.shape != expected or layer.bias is None:
                raise ModelFileError(f"not the hand landmark network: convolution {index} is {weight.shape}")
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
            layer.bias.copy_(torch.from_numpy(bias))


def _convolutions(content: bytes) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Weights and biases of a .tflite network's convolutions, in the order in which they run."""
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise ModelFileError(f"LiteRT is not installed: {how_to_get('ai-edge-litert')}") from error
    try:
        interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        interpreter.invoke()  # half-precision weights become readable as float32 once it has run
        operations = [op for op in interpreter._get_ops_details() if "CONV_2D" in op["op_name"]]
        return [
            (interpreter.get_tensor(op["inputs"][1]).copy(), interpreter.get_tensor(op["inputs"][2]).copy())
            for op in operations
        ]
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(f"not a network that LiteRT can read ({error})") from error
