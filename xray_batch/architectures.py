"""The residual networks that a bundle may name, as facts, without torch, which takes a second to import.

He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

#: Of the four stages: a stage has twice the channels of the one before.
WIDTHS: Final = (64, 128, 256, 512)


class Convolution(NamedTuple):
    """One convolution of a block."""

    channels: int  #: that it gives
    kernel: int  #: rows, and columns
    stride: int = 1


#: Gives the convolutions of a block of some width, the first block of a stage with the stride of the stage.
Block: TypeAlias = Callable[[int, int], tuple[Convolution, ...]]


def _basic(width: int, stride: int) -> tuple[Convolution, ...]:
    return Convolution(width, 3, stride), Convolution(width, 3)


def _bottleneck(width: int, stride: int) -> tuple[Convolution, ...]:
    """Stride in the second convolution, not in the first: "ResNet v1.5", which torchvision's weights are for."""
    return Convolution(width, 1), Convolution(width, 3, stride), Convolution(4 * width, 1)


#: By architecture: the blocks, and how many of them each stage has (He et al., table 1).
DESIGNS: Final[dict[str, tuple[Block, tuple[int, ...]]]] = {
    "resnet34": (_basic, (3, 4, 6, 3)),
    "resnet50": (_bottleneck, (3, 4, 6, 3)),
}

ARCHITECTURES: Final = tuple(DESIGNS)


def feature_count(architecture: str, grid: int) -> int:
    """Return how many features there are of the four stages' channels over `grid` x `grid` parts of the picture."""
    block, _ = DESIGNS[architecture]
    return sum(block(width, 1)[-1].channels for width in WIDTHS) * grid**2
