"""The files of a bundle: their names, and how they are written."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from xray_batch.bundle.manifest import Manifest
from xray_batch.bundle_folders import MANIFEST_NAME, MODEL_CARD_NAME
from xray_batch.records import Finding

if TYPE_CHECKING:
    from torch import nn

GATE_NAME: Final = "gate.safetensors"
HASHES_NAME: Final = "training_images.safetensors"

#: Name of the entry that holds the classes in the metadata of a file of weights.
_CLASSES: Final = "classes"


def save_weights(network: "nn.Module", classes: Sequence[Finding], path: Path) -> str:
    """Write a member's weights as float16 safetensors and return the file's SHA-256.

    Integer entries (the batch counters of batch norm) are kept as they are.  The metadata of the file say
    which finding each output stands for, so that no other order can be read into the weights.
    """
    import safetensors.torch

    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    safetensors.torch.save_file(tensors, path, metadata={_CLASSES: ",".join(classes)})
    return _publish(path)


def read_classes(weights: bytes) -> tuple[str, ...]:
    """Return what the outputs of a member stand for, as :func:`save_weights` wrote it; empty where a file says nothing.

    `weights` is a file that `safetensors` has read without complaint: 8 bytes with the length of the header, the
    header as JSON, the tensors (https://huggingface.co/docs/safetensors).
    """
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    classes = header.get("__metadata__", {}).get(_CLASSES, "")
    return tuple(classes.split(",")) if classes else ()


def save_gate(weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], path: Path) -> str:
    """Write a gate's layer as safetensors, the weights float16, and return the file's SHA-256."""
    safetensors.numpy.save_file({"weight": weight.astype(np.float16), "bias": bias.astype(np.float32)}, path)
    return _publish(path)


def save_hashes(content: npt.NDArray[np.uint64], picture: npt.NDArray[np.uint8], path: Path) -> str:
    """Write the hashes of training images (N,) and (N, 32), and return the file's SHA-256.

    They recognize an image, and tell nothing about it.
    """
    safetensors.numpy.save_file({"content": content, "picture": picture}, path)
    return _publish(path)


def _publish(path: Path) -> str:
    """Let others read what safetensors has written for its owner alone, and return its SHA-256."""
    path.chmod(0o644)  # weights are no secret, and the service may be another user
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest, model_card: str) -> None:
    """Write the model card and then, in one step, the manifest: it vouches for all that lies beside it."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / MODEL_CARD_NAME).write_text(model_card, encoding="utf-8")
    partial = folder / f"{MANIFEST_NAME}.part"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST_NAME)


def member_files(architectures: Sequence[str]) -> list[str]:
    """Name the weight file of each member."""
    return [f"{architecture}.safetensors" for architecture in architectures]
