"""Residual networks put to use: for inference, with what they see on the way, and from other weights."""

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xray_batch.resnet import ResNet

N = TypeVar("N", bound=nn.Module)


class _PackedConvolution(nn.Module):
    """A convolution on a CPU whose weights are brought into oneDNN's own order once, not in every pass.

    Torch keeps weights in a plain order, so that oneDNN brings them into the one its kernels read each time, which
    for one picture takes as long as the convolutions.  The operators are those that torch's own compiler calls
    (torch/_inductor/fx_passes/mkldnn_fusion.py); in bfloat16 what they give is the same, bit for bit.  In float32 torch
    alone would choose between oneDNN and kernels of its own by the number of pictures, and so change the last bits.

    It can be neither saved nor moved to another device, and the first pass belongs to one thread.

    Parameters
    ----------
    convolution
        With bias, in evaluation mode.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._weight, self._bias = convolution.weight.requires_grad_(False), convolution.bias
        self._shape = convolution.padding, convolution.stride, convolution.dilation, convolution.groups
        self._is_packed = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Take shape (N, channels, rows, columns); that of the first batch decides which order is best."""
        onednn = torch.ops.mkldnn
        if not self._is_packed:
            packed = onednn._reorder_convolution_weight(self._weight, *self._shape, inputs.shape)
            self._weight, self._is_packed = nn.Parameter(packed, requires_grad=False), True
        found: torch.Tensor = onednn._convolution_pointwise(
            inputs, self._weight, self._bias, *self._shape, "none", [], ""
        )
        return found


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether convolutions can be packed: on a CPU, with oneDNN and its instructions for the precision."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call] # torch
        return False
    wanted = ("_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported")
    if not all(hasattr(torch.ops.mkldnn, name) for name in wanted):  # they may have other names in another torch
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def for_inference(network: N, device: torch.device, dtype: torch.dtype) -> N:
    """Return a copy of a network for :func:`forward_with_features` alone: faster, and not to be trained.

    Each batch norm becomes part of the convolution before it, the weights are kept in `dtype`, and the memory format
    is the one that convolutions are fastest in, on a CPU also the order of the weights.  The last layer stays float32,
    so that logits are not rounded.

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
                before = "0" if name == "1" else name.replace("bn", "conv")  # in a shortcut; in a block
                setattr(parent, before, fuse_conv_bn_eval(getattr(parent, before), norm))
                setattr(parent, name, nn.Identity())
    head = copied.fc
    copied.fc = nn.Identity()
    copied.to(dtype)
    copied.fc = head
    placed = place(copied, device)
    if can_pack(device, dtype):
        for parent in list(placed.modules()):
            for name, convolution in list(parent.named_children()):
                if isinstance(convolution, nn.Conv2d):
                    setattr(parent, name, _PackedConvolution(convolution))
    return placed


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
        Logits (N, class_count), those of ``network(inputs)`` but for the last bits; features (N, channels *
        grid ** 2) of the four stages together, float32, not negative, (N, 0) without a grid; and class maps (N,
        class_count, rows, columns) of the last stage, float32, whose means are the logits without their bias.
    """
    stage = network.maxpool(network.relu(network.bn1(network.conv1(inputs))))
    features = [stage.new_empty(len(stage), 0, dtype=torch.float32)]
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        stage = layer(stage)
        if grid is not None:
            features.append(adaptive_avg_pool2d(stage.float(), grid).flatten(1))
    # On a CPU for each picture alone: the order in which a product adds up depends on how many rows it has.  On a GPU
    # the recorded pass always has the same number.
    pictures = [stage] if stage.is_cuda else stage.split(1)
    with torch.autocast(inputs.device.type, enabled=False):  # small differences matter: no bfloat16
        logits, class_maps = map(torch.cat, zip(*(_run_head(network, picture) for picture in pictures), strict=True))
    return logits, torch.cat(features, dim=1), class_maps


def _run_head(network: ResNet, stage: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and class maps of what the last stage gave."""
    logits: torch.Tensor = network.fc(network.avgpool(stage).flatten(1).to(network.fc.weight.dtype))
    return logits, torch.einsum("kc,ncij->nkij", network.fc.weight.float(), stage.float())


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
