"""Residual networks put to use: for inference, with what they see on the way, and from other weights."""

import copy
from collections.abc import Mapping
from typing import Final, TypeVar

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xray_batch.resnet import ResNet

N = TypeVar("N", bound=nn.Module)

#: Channels of the four stages together.
_CHANNELS: Final = {"resnet34": 960, "resnet50": 3840}


def for_inference(network: N, device: torch.device, dtype: torch.dtype) -> N:
    """Return a copy of a network for :func:`forward_with_features` alone: faster, and not to be trained.

    Each batch norm becomes part of the convolution before it, the weights are kept in `dtype`, and the memory format
    is the one that convolutions are fastest in.  The last layer stays float32, so that logits are not rounded.

    Parameters
    ----------
    network
        A :class:`~xray_batch.resnet.ResNet` in evaluation mode; stays as it is.

    Returns
    -------
    torch.nn.Module
        On `device`; its inputs are of `dtype`.
    """
    replaced = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    shared = {id(tensor): tensor for module in replaced for tensor in (*module.parameters(), *module.buffers())}
    copied = copy.deepcopy(network, shared)  # what is replaced below need not be copied
    for parent in list(copied.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                convolution = "0" if name == "1" else name.replace("bn", "conv")  # in a shortcut; in a block
                setattr(parent, convolution, fuse_conv_bn_eval(getattr(parent, convolution), norm))
                setattr(parent, name, nn.Identity())
    head = copied.fc
    copied.fc = nn.Identity()
    copied.to(dtype)
    copied.fc = head
    return place(copied, device)


def place(network: N, device: torch.device) -> N:
    """Move a network to `device`, in the memory format that its convolutions are fastest in."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return] # not in torch's stubs


def forward_with_features(
    network: ResNet, inputs: torch.Tensor, grid: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the logits, what each stage made of the picture on the way, and where each logit comes from.

    Parameters
    ----------
    network
        A :class:`~xray_batch.resnet.ResNet`, or from :func:`for_inference`.
    inputs
        Shape (N, 1, rows, columns), standardized.
    grid
        Each channel of a stage is averaged over `grid` x `grid` equal parts of the picture; None: over none.

    Returns
    -------
    tuple of torch.Tensor
        Logits (N, class_count), as ``network(inputs)`` gives them; features (N, channels * grid ** 2) of the
        four stages together, float32, not negative, (N, 0) without a grid; and class maps (N, class_count, rows,
        columns) of the last stage, float32, whose means are the logits without their bias.
    """
    stage = network.maxpool(network.relu(network.bn1(network.conv1(inputs))))
    features = [stage.new_empty(len(stage), 0, dtype=torch.float32)]
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        stage = layer(stage)
        if grid is not None:
            features.append(adaptive_avg_pool2d(stage.float(), grid).flatten(1))
    with torch.autocast(inputs.device.type, enabled=False):  # small differences matter: no bfloat16
        logits: torch.Tensor = network.fc(network.avgpool(stage).flatten(1).to(network.fc.weight.dtype))
        class_maps = torch.einsum("kc,ncij->nkij", network.fc.weight.float(), stage.float())
    return logits, torch.cat(features, dim=1), class_maps


def feature_count(architecture: str, grid: int) -> int:
    """Return how many features :func:`forward_with_features` gives."""
    return _CHANNELS[architecture] * grid**2


def load_backbone(network: ResNet, weights: Mapping[str, torch.Tensor]) -> None:
    """Start `network` from the weights of a torchvision ResNet trained on colour images (ImageNet).

    The three input channels of the stem are summed: a gray image is a colour image with three equal
    channels.  The classification layer keeps its random weights.

    Raises
    ------
    RuntimeError
        If `weights` are not those of this architecture (torch names the missing or unexpected entries).
    """
    backbone = {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}
    if "conv1.weight" in backbone and backbone["conv1.weight"].shape[1] == 3:
        backbone["conv1.weight"] = backbone["conv1.weight"].sum(dim=1, keepdim=True)
    own_head = {f"fc.{name}": tensor for name, tensor in network.fc.state_dict().items()}
    network.load_state_dict(backbone | own_head)
