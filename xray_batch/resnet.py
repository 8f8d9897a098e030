"""Residual networks for single-channel images, built from their designs.

Weights have the names that they have in torchvision, whose networks these are but for the first convolution.  They are
not taken from there because to import torchvision takes half as long as everything else that the service does before
it is ready.
"""

from collections.abc import Sequence

import torch
from torch import nn

from xray_batch.architectures import DESIGNS, WIDTHS, Convolution


class _Conv2d(nn.Conv2d):
    """Without bias, of the size of its input where the stride is 1; its weights are for :class:`ResNet` to draw."""

    def __init__(self, channels: int, wanted: Convolution) -> None:
        padding = wanted.kernel // 2
        super().__init__(channels, wanted.channels, wanted.kernel, wanted.stride, padding, bias=False)

    def reset_parameters(self) -> None:
        """Draw nothing."""


class ResidualBlock(nn.Module):
    """Convolutions, each with its batch norm; what they give is added to their input.

    Parameters
    ----------
    channels
        Of the input, which a convolution of one pixel brings to the shape of the output where that is another.
    """

    def __init__(self, channels: int, convolutions: Sequence[Convolution]) -> None:
        super().__init__()
        self._steps = [(f"conv{number}", f"bn{number}") for number in range(1, len(convolutions) + 1)]
        before, stride = channels, 1
        for (convolution, norm), wanted in zip(self._steps, convolutions, strict=True):
            self.add_module(convolution, _Conv2d(before, wanted))
            self.add_module(norm, nn.BatchNorm2d(wanted.channels))
            before, stride = wanted.channels, stride * wanted.stride
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != channels:
            shortcut = _Conv2d(channels, Convolution(before, 1, stride))
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(before))

    def start_as_identity(self) -> None:
        """Let the block add nothing to its input."""
        nn.init.zeros_(getattr(self, self._steps[-1][1]).weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Take shape (N, channels, rows, columns)."""
        found = inputs
        for number, (convolution, norm) in enumerate(self._steps):
            if number:
                found = self.relu(found)
            found = getattr(self, norm)(getattr(self, convolution)(found))
        found += self.downsample(inputs)
        activated: torch.Tensor = self.relu(found)
        return activated


class ResNet(nn.Module):
    """A network of :data:`~xray_batch.architectures.ARCHITECTURES`, with random weights.

    Weights of convolutions are drawn as by He et al., "Delving Deep into Rectifiers", 2015, arXiv 1502.01852.  The
    last batch norm of each block starts at zero (Goyal et al. 2017, arXiv 1706.02677, section 5.1).

    Parameters
    ----------
    class_count
        Number of logits.
    draw
        Whether to draw weights; to do so takes longer than to load those that would replace them at once.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, architecture: str, class_count: int, *, draw: bool = True) -> None:
        super().__init__()
        block, depths = DESIGNS[architecture]
        channels = WIDTHS[0]
        self.conv1 = _Conv2d(1, Convolution(channels, 7, 2))
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), start=1):
            blocks: list[nn.Module] = []
            for number in range(depth):
                convolutions = block(width, 2 if stage > 1 and number == 0 else 1)
                blocks.append(ResidualBlock(channels, convolutions))
                channels = convolutions[-1].channels
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, class_count)
        if draw:
            self._draw_weights()

    def _draw_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, ResidualBlock):
                module.start_as_identity()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Take shape (N, 1, rows, columns), standardized; return logits (N, class_count)."""
        stage = self.maxpool(self.relu(self.bn1(self.conv1(inputs))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            stage = layer(stage)
        logits: torch.Tensor = self.fc(self.avgpool(stage).flatten(1))
        return logits
