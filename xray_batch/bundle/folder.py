"""A bundle on disk: read, checked against its hashes, loaded; and where bundles are found."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from pydantic import ValidationError
from safetensors import SafetensorError

from xray_batch.architectures import feature_count
from xray_batch.bundle.files import read_classes
from xray_batch.bundle.manifest import Manifest, MemberFacts
from xray_batch.bundle_folders import MANIFEST_NAME, MODEL_CARD_NAME, bundle_folders, named_folder, read_manifest
from xray_batch.errors import BundleError
from xray_batch.gate import GateLimits, InputGate

if TYPE_CHECKING:
    from xray_batch.resnet import ResNet

#: Of the hash of a picture.
_HASH_BYTES: Final = 32


class Bundle:
    """A bundle on disk whose manifest has been read and checked.

    Parameters
    ----------
    folder
        Holds `manifest.json` and the files it names.

    Raises
    ------
    BundleError
        If the manifest is missing or incomplete, or names a file that is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            content = read_manifest(folder)
        except OSError as error:
            message = f"{folder} is not a model bundle: {MANIFEST_NAME} cannot be read ({error.strerror})"
            raise BundleError(message) from error
        try:
            self.manifest = Manifest.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            fact = ".".join(str(part) for part in first["loc"]) or "the whole"
            message = f"{folder / MANIFEST_NAME}: {fact}: {first['msg']}"
            raise BundleError(message) from error
        self.manifest_text = content.decode()
        self.sha256 = hashlib.sha256(content).hexdigest()
        for name in [*self.hashed_files, MODEL_CARD_NAME]:
            if not (folder / name).is_file():
                message = f"{folder} is incomplete: {name} is missing"
                raise BundleError(message)

    @property
    def hashed_files(self) -> list[str]:
        """Names of the files whose SHA-256 is in the manifest: weights, gate, and hashes of the training images."""
        hashes = self.manifest.training.hashes
        return [
            *(member.file for member in self.manifest.members),
            self.manifest.gate.file,
            *([hashes.file] if hashes else []),
        ]

    def load_networks(self) -> "list[ResNet]":
        """Build the members, in the manifest's order, float32 on the CPU, in evaluation mode.

        Raises
        ------
        BundleError
            If a file differs from its hash, its tensors do not fit the architecture, or its classes or their order
            are not the manifest's.
        """
        return [self._load_member(member) for member in self.manifest.members]

    def load_gate(self) -> InputGate:
        """Load the gate that looks at the picture.

        Raises
        ------
        BundleError
            If its file differs from its hash or holds something else.
        """
        facts = self.manifest.gate
        try:
            tensors = safetensors.numpy.load(self._read(facts.file, facts.sha256))
            weight, bias = tensors["weight"], tensors["bias"]
        except (SafetensorError, KeyError) as error:
            message = f"{self.folder / facts.file} does not hold the weights of a gate: {error}"
            raise BundleError(message) from error
        expected = (feature_count(facts.architecture, facts.grid), len(facts.kinds))
        if weight.shape != expected or bias.shape != expected[1:]:
            message = (
                f"{self.folder / facts.file} has weights {weight.shape} and biases {bias.shape}, expected {expected} "
                f"and {expected[1:]}: {expected[0]} features (gate.grid is {facts.grid}), {expected[1]} kinds"
            )
            raise BundleError(message)
        limits = GateLimits(
            flag_above=facts.flag_above, refuse_above=facts.refuse_above, sharpness_below=facts.sharpness_below
        )
        return InputGate(weight.astype(np.float32), bias.astype(np.float32), facts.kinds, limits)

    def load_hashes(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]] | None:
        """Load the hashes of the training images' files (N,) and pictures (N, 32); None where they were not kept.

        Raises
        ------
        BundleError
            If the file differs from its hash or holds something else.
        """
        facts = self.manifest.training.hashes
        if facts is None:
            return None
        try:
            tensors = safetensors.numpy.load(self._read(facts.file, facts.sha256))
            content, picture = tensors["content"], tensors["picture"]
        except (SafetensorError, KeyError) as error:
            message = f"{self.folder / facts.file} does not hold the hashes of images: {error}"
            raise BundleError(message) from error
        as_expected = content.dtype == np.uint64 and picture.dtype == np.uint8
        if not as_expected or picture.shape != (*content.shape, _HASH_BYTES):
            message = (
                f"{self.folder / facts.file} has {content.dtype} {content.shape} of files and {picture.dtype} "
                f"{picture.shape} of pictures, expected uint64 (N,) and uint8 (N, {_HASH_BYTES})"
            )
            raise BundleError(message)
        return content, picture

    def _read(self, file: str, sha256: str) -> bytes:
        path = self.folder / file
        try:
            content = path.read_bytes()
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror}"
            raise BundleError(message) from error
        actual = hashlib.sha256(content).hexdigest()
        if actual != sha256:
            message = f"{path} has SHA-256 {actual}, the manifest says {sha256}"
            raise BundleError(message)
        return content

    def _load_member(self, member: MemberFacts) -> "ResNet":
        import safetensors.torch

        from xray_batch.resnet import ResNet

        network = ResNet(member.architecture, len(self.manifest.classes), draw=False)
        content = self._read(member.file, member.sha256)
        try:
            network.load_state_dict(safetensors.torch.load(content))
        except (SafetensorError, RuntimeError) as error:
            message = f"{self.folder / member.file} does not hold the weights of a {member.architecture}: {error}"
            raise BundleError(message) from error
        classes = read_classes(content)
        if classes != self.manifest.classes:
            message = (
                f"{self.folder / member.file} was trained for {', '.join(classes) or 'classes that it does not name'}, "
                f"the manifest says {', '.join(self.manifest.classes)}"
            )
            raise BundleError(message)
        network.requires_grad_(requires_grad=False)
        network.eval()
        return network


def find_bundle(name: str, installed: Path) -> Bundle:
    """Open a bundle by path, by the name of its folder in `installed`, or among the packaged ones.

    Raises
    ------
    BundleError
        If there is none; the message lists those that there are.
    """
    folder = named_folder(name, installed)
    if folder is not None:
        return Bundle(folder)
    known = ", ".join(folder.name for folder in bundle_folders(installed))
    message = f"there is no model bundle {name!r}; there are: {known or 'none'}"
    raise BundleError(message)
