"""Random changes to training images: pose, exposure, sharpness and borders.

Every change stands for something that differs between X-ray departments and says nothing about the
lungs.  The second half (sharpness, noise, borders) takes away the shortcuts by which a network could
recognise where an image was made instead of what it shows.

All functions take and return float (N, 1, rows, columns) in [0, 1] on any device, and draw from `random`,
a generator on the CPU, so that a run can be repeated; but for the noise, also on another device.
"""

import math
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: What is changed: all below, or the pose alone.
Augmentation: TypeAlias = Literal["full", "pose"]

#: Scales of the pose.  Cutting a border of a tenth off at each side enlarges what is left by a quarter.
_SMALLEST: Final = 0.88
_LARGEST: Final = 1.28

#: Both parameters of the beta distribution that shares of mixed images come from.
_MIXUP_ALPHA: Final = 0.2


def augment(images: Tensor, random: torch.Generator, extent: Augmentation) -> Tensor:
    """Apply every change below to a batch, each image on its own; or only the change of pose."""
    images = change_pose(images, random)
    if extent == "pose":
        return images
    images = change_exposure(images, random)
    images = change_sharpness(images, random)
    images = add_noise(images, random)
    images = mask_border(images, random)
    return erase_rectangle(images, random)


def mix(images: Tensor, random: torch.Generator, probability: float) -> tuple[Tensor, Tensor, float]:
    """Mix a batch, with some probability, with the same images in another order.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, arXiv 1710.09412.

    Returns
    -------
    tuple
        The images; indices (N,) of those mixed in; and the share of the images themselves, 1 if none was mixed in.
    """
    partners = torch.randperm(len(images), generator=random)
    if not _chance(1, probability, random).item():
        return images, partners, 1.0
    share = np.random.default_rng(int(torch.randint(2**31, (1,), generator=random))).beta(_MIXUP_ALPHA, _MIXUP_ALPHA)
    return share * images + (1 - share) * images[partners.to(images.device)], partners, float(share)


def change_pose(images: Tensor, random: torch.Generator) -> Tensor:
    """Shift by 6 %, scale by 0.88-1.28, rotate by 8 degrees, change the aspect by 0.8-1.25, mirror half."""
    count = len(images)
    angle = _uniform(count, -math.radians(8), math.radians(8), random)
    scale = torch.exp(_uniform(count, math.log(_SMALLEST), math.log(_LARGEST), random))
    aspect = torch.exp(_uniform(count, math.log(0.8), math.log(1.25), random) / 2)
    mirror = torch.where(_chance(count, 0.5, random), -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = torch.cos(angle) * mirror / (scale * aspect)
    theta[:, 0, 1] = -torch.sin(angle) / (scale * aspect)
    theta[:, 1, 0] = torch.sin(angle) * mirror * aspect / scale
    theta[:, 1, 1] = torch.cos(angle) * aspect / scale
    theta[:, :, 2] = _uniform(count * 2, -0.12, 0.12, random).reshape(count, 2)  # of half the image: 6 %
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def change_exposure(images: Tensor, random: torch.Generator) -> Tensor:
    """Gamma 0.7-1.4, contrast 0.7-1.3 around mid-gray, brightness -0.15 to 0.15; clipped to [0, 1]."""
    count = len(images)
    gamma = torch.exp(_uniform(count, math.log(0.7), math.log(1.4), random))
    contrast = _uniform(count, 0.7, 1.3, random)
    brightness = _uniform(count, -0.15, 0.15, random)
    changed = images.clamp(1e-4, 1.0) ** _per_image(gamma, images)
    changed = (changed - 0.5) * _per_image(contrast, images) + 0.5 + _per_image(brightness, images)
    return changed.clamp(0.0, 1.0)


def change_sharpness(images: Tensor, random: torch.Generator) -> Tensor:
    """Shrink to 0.4-1 and enlarge half of the batch in four groups; blur the other half, SD to 0.6 % of its width."""
    sharpness = torch.rand(4, generator=random)
    groups = []
    for group, value in zip(images.chunk(4), sharpness.tolist(), strict=False):
        half = len(group) // 2
        small = [max(8, round(side * (0.4 + 0.6 * value))) for side in group.shape[-2:]]
        shrunk = F.interpolate(group[:half], size=small, mode="bilinear", antialias=True) if half else group[:0]
        restored = F.interpolate(shrunk, size=list(group.shape[-2:]), mode="bilinear") if half else shrunk
        groups.append(torch.cat([restored, blur(group[half:], 0.006 * value * group.shape[-1])]))
    return torch.cat(groups)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with a standard deviation of `sigma` pixels; edges are repeated outwards."""
    if sigma < 0.1:
        return images
    radius = max(1, math.ceil(3 * sigma))
    positions = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(positions**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(images, (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def add_noise(images: Tensor, random: torch.Generator) -> Tensor:
    """Add Gaussian noise with an SD of 0-0.03."""
    sigma = _per_image(_uniform(len(images), 0.0, 0.03, random), images)
    on_device = torch.Generator(images.device).manual_seed(int(torch.randint(2**31, (1,), generator=random)))
    noise = torch.randn(images.shape, generator=on_device, device=images.device)
    return (images + sigma * noise).clamp(0.0, 1.0)


def mask_border(images: Tensor, random: torch.Generator) -> Tensor:
    """Cover 0-12 % at each side of half of the images: with black as a collimator does, or with one random gray."""
    count, rows, columns = len(images), *images.shape[-2:]
    widths = _uniform(count * 4, 0.0, 0.12, random).reshape(4, count) * _chance(count, 0.5, random)
    top, bottom, left, right = (width.reshape(count, 1) for width in widths)
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    inside_y = (y > top) & (y < 1 - bottom)
    inside_x = (x > left) & (x < 1 - right)
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    fill = _per_image(torch.rand(count, generator=random) * _chance(count, 0.5, random), images)
    return torch.where(inside.to(images.device), images, fill)


def erase_rectangle(images: Tensor, random: torch.Generator) -> Tensor:
    """Cover a rectangle of up to 10 % of the area in 20 % of the images with one random gray.

    Zhong et al., "Random Erasing Data Augmentation", 2017, arXiv 1708.04896.
    """
    count, rows, columns = len(images), *images.shape[-2:]
    area = _uniform(count, 0.02, 0.10, random)
    aspect = torch.exp(_uniform(count, math.log(0.4), math.log(2.5), random))
    height, width = torch.sqrt(area * aspect), torch.sqrt(area / aspect)
    top = torch.rand(count, generator=random) * (1 - height)
    left = torch.rand(count, generator=random) * (1 - width)
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    in_y = (y > top[:, None]) & (y < (top + height)[:, None])
    in_x = (x > left[:, None]) & (x < (left + width)[:, None])
    erased = in_y[:, None, :, None] & in_x[:, None, None, :]
    erased &= _chance(count, 0.2, random)[:, None, None, None]
    fill = _per_image(torch.rand(count, generator=random), images)
    return torch.where(erased.to(images.device), fill, images)


def _uniform(count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return torch.rand(count, generator=random) * (high - low) + low


def _chance(count: int, probability: float, random: torch.Generator) -> Tensor:
    return torch.rand(count, generator=random) < probability


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images).view(-1, 1, 1, 1)
