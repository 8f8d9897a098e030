"""Starting weights from ImageNet, for users who have them or a network."""

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torchvision.models import get_model_weights

from xray_batch.errors import TrainingDataError

#: torchvision's file names end with the first digits of the file's SHA-256: `resnet34-b627a593.pth`.
_TORCHVISION_NAME = re.compile(r"^(?P<architecture>[a-z0-9]+)-(?P<prefix>[0-9a-f]{8,})\.pth$")

#: torch's own text advises to load the file unsafely, which could run code.
_NO_TENSORS = "cannot be loaded: it is damaged, or holds something else than the tensors of a network"


class BackboneSource(Protocol):
    """Where starting weights come from."""

    @property
    def description(self) -> str:
        """What the manifest says of them."""

    def weights(self, architecture: str) -> Mapping[str, Tensor]:
        """State of a torchvision network of this architecture, trained on three-channel images."""


class TorchvisionBackbone:
    """torchvision's own weights, from its cache or its download server."""

    @property
    def description(self) -> str:
        """What the manifest says of them."""
        return "ImageNet, by torchvision"

    def weights(self, architecture: str) -> Mapping[str, Tensor]:
        """Load torchvision's current ImageNet weights; torchvision checks the hash of what it downloads.

        What lies in its cache it takes as it is, so nothing but tensors is loaded from there.

        Raises
        ------
        TrainingDataError
            If there is neither a cached file nor a network, or the file holds something else than tensors.
        """
        weights = get_model_weights(architecture).DEFAULT
        try:
            with redirect_stdout(sys.stderr):  # it says what it downloads
                state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            message = (
                f"the ImageNet weights of {architecture} are neither in torchvision's cache nor can they be "
                "downloaded; give a file with --backbone-weights, or start from random weights"
            )
            raise TrainingDataError(message) from error
        except Exception as error:  # whatever a hostile file raises
            message = f"the ImageNet weights of {architecture} in torchvision's cache {_NO_TENSORS}"
            raise TrainingDataError(message) from error
        return state


class FileBackbone:
    """Files that the user has: safetensors, or torchvision's own `resnet34-<hash>.pth`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    @cached_property
    def description(self) -> str:
        """What the manifest says of them: the files and their hashes, as they were when it was first asked for."""
        return ", ".join(f"{path.name} (SHA-256 {_sha256(path)})" for path in self._paths)

    def weights(self, architecture: str) -> Mapping[str, Tensor]:
        """Load the file whose name begins with `architecture`.

        Raises
        ------
        TrainingDataError
            If none does, or its content is not what its name promises.
        """
        path = next((path for path in self._paths if path.name.startswith(architecture)), None)
        if path is None or not path.is_file():
            message = f"no file among --backbone-weights is named {architecture}*; name one such file per member"
            raise TrainingDataError(message)
        if path.suffix != ".safetensors":
            return _torchvision_file(path)
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            message = f"{path} is not a safetensors file: {error}"
            raise TrainingDataError(message) from error


def _torchvision_file(path: Path) -> Mapping[str, Tensor]:
    """Read a `.pth` of torchvision: unchanged since it was named, and nothing but its tensors."""
    name = _TORCHVISION_NAME.match(path.name)
    actual = _sha256(path)
    if name is None or not actual.startswith(name["prefix"]):
        message = f"{path} is neither safetensors nor an unchanged file of torchvision (its SHA-256 is {actual})"
        raise TrainingDataError(message)
    try:
        # torchvision publishes pickles.  This one has the hash of its name, and with `weights_only` torch makes tensors
        # and nothing else of it; `load_state_dict_from_url` knows the old form of such files too.
        state: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(  # noqa: TID251 - see above
            path.resolve().as_uri(), model_dir=str(path.resolve().parent), map_location="cpu", weights_only=True
        )
    except Exception as error:  # whatever a hostile file raises
        message = f"{path} {_NO_TENSORS}"
        raise TrainingDataError(message) from error
    return state


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        message = f"cannot read the starting weights {path}: {error.strerror}"
        raise TrainingDataError(message) from error
