"""Trunks: pictures to feature maps, without pooling and classifier.

ResNet (He et al., CVPR 2016) with torchvision's tensor names, EfficientNet-Lite0 (Tan and Le, ICML 2019, in the Lite
variant without squeeze-and-excitation) with the names of its PyTorch ports, so that weights for either can be loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor, nn


class Trunk(str, Enum):
    """Which network looks at the pictures."""

    RESNET50 = "resnet50"
    RESNET18 = "resnet18"
    EFFICIENTNET_LITE0 = "efficientnet-lite0"
    LANDMARKS = "landmarks"
    """The MediaPipe hand landmark network up to its 7×7 map."""
    LANDMARKS_FINE = "landmarks-fine"
    """The same, with its last 14×14 map beside it, which a keypoint head needs."""


class FeatureTrunk(nn.Module):
    """(N, inputs, 224, 224) normalised pictures → (N, channels, 7, 7) features."""

    channels: int


def make_trunk(kind: Trunk, inputs: int = 3) -> FeatureTrunk:
    """A trunk with untrained weights; `inputs` channels come in."""
    if kind in (Trunk.LANDMARKS, Trunk.LANDMARKS_FINE):
        from wildhands_ros.estimation.wildhands.landmark_trunk import FineLandmarkTrunk, LandmarkTrunk

        return LandmarkTrunk(inputs) if kind is Trunk.LANDMARKS else FineLandmarkTrunk(inputs)
    makers: dict[Trunk, Callable[[int], FeatureTrunk]] = {
        Trunk.RESNET50: lambda n: ResNet(50, n),
        Trunk.RESNET18: lambda n: ResNet(18, n),
        Trunk.EFFICIENTNET_LITE0: EfficientNetLite0,
    }
    return makers[kind](inputs)


# --- ResNet -----------------------------------------------------------------------------------------------------------


class ResNet(FeatureTrunk):
    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, depth: int, inputs: int = 3) -> None:
        super().__init__()
        block: type[_Bottleneck] | type[_Basic] = _Bottleneck if depth == 50 else _Basic
        counts = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
        self.conv1 = nn.Conv2d(inputs, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, (width, count) in enumerate(zip((64, 128, 256, 512), counts, strict=True)):
            blocks: list[nn.Module] = []
            for i in range(count):
                blocks.append(block(channels, width, 2 if stage > 0 and i == 0 else 1))
                channels = width * block.expansion
            self.add_module(self.stages[stage], nn.Sequential(*blocks))
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return x


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Basic(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


# --- EfficientNet-Lite0 -----------------------------------------------------------------------------------------------

# (blocks, kernel, stride, expansion, channels out), table 1 of the EfficientNet paper at width and depth 1
_LITE0_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip


class EfficientNetLite0(FeatureTrunk):
    channels = 1280

    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        self._conv_stem = _SameConv(inputs, 32, 3, 2)
        self._bn0 = _lite_norm(32)
        blocks, channels = [], 32
        for count, kernel, stride, expansion, outputs in _LITE0_STAGES:
            for i in range(count):
                blocks.append(_InvertedResidual(channels, outputs, kernel, stride if i == 0 else 1, expansion))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv(channels, self.channels, 1, 1)
        self._bn1 = _lite_norm(self.channels)
        self.activation = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return self.activation(self._bn1(self._conv_head(x)))


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion != 1
        self.residual = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = _SameConv(inputs, width, 1, 1)
            self._bn0 = _lite_norm(width)
        self._depthwise_conv = _SameConv(width, width, kernel, stride, groups=width)
        self._bn1 = _lite_norm(width)
        self._project_conv = _SameConv(width, outputs, 1, 1)
        self._bn2 = _lite_norm(outputs)
        self.activation = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self.activation(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.residual else y


class _SameConv(nn.Conv2d):
    """A convolution with TensorFlow's 'same' padding: output = ceil(input / stride), the odd pixel at the end."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        # for an even input that is a multiple of the stride, the whole padding is kernel − stride
        total = max(kernel - stride, 0)
        self._before_after = (total // 2, total - total // 2)

    def forward(self, x: Tensor) -> Tensor:
        before, after = self._before_after
        if before or after:
            x = nn.functional.pad(x, (before, after, before, after))
        return super().forward(x)


def _lite_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def initialise(trunk: nn.Module) -> None:
    """He initialisation of every convolution; batch norms start as the identity."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def picture_mean_std(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3,) of the colours (RGB, 0 to 1) that the trunks' weights were trained on."""
    return torch.tensor((0.485, 0.456, 0.406), device=device), torch.tensor((0.229, 0.224, 0.225), device=device)
