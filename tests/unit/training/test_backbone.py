"""Starting weights: from files that the user has, or from torchvision."""

import hashlib
from urllib.error import URLError

import pytest
import safetensors.torch
import torch

from xray_batch.errors import TrainingDataError
from xray_batch.training.backbone import FileBackbone, TorchvisionBackbone

STATE = {"conv1.weight": torch.arange(6.0).reshape(2, 3)}


class Hostile:
    """An object whose unpickling has an effect."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        """Have whoever unpickles this make a file."""
        return (open, (str(self.path), "w"))


def write_pth(folder, state, *, name="resnet34-{prefix}.pth"):
    """Save `state` as torchvision does: the name holds the first digits of the content's hash."""
    path = folder / "new.pth"
    torch.save(state, path)
    prefix = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(folder / name.format(prefix=prefix))


def refusal(source, architecture="resnet34"):
    """Return the sentence with which starting weights are refused."""
    with pytest.raises(TrainingDataError) as refused:
        source.weights(architecture)
    return str(refused.value)


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Give torchvision an empty cache and no network; return the cache's folder."""

    def fail(*arguments, **options):
        raise URLError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    folder = tmp_path / "cache" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_safetensors(tmp_path):
    """The file whose name begins with the architecture is loaded."""
    for architecture, factor in (("resnet50", 2.0), ("resnet34", 1.0)):
        tensors = {name: factor * tensor for name, tensor in STATE.items()}
        safetensors.torch.save_file(tensors, tmp_path / f"{architecture}-imagenet.safetensors")
    source = FileBackbone(sorted(tmp_path.iterdir()))
    assert torch.equal(source.weights("resnet34")["conv1.weight"], STATE["conv1.weight"])
    assert torch.equal(source.weights("resnet50")["conv1.weight"], 2 * STATE["conv1.weight"])


def test_description(tmp_path):
    """The files are described by their hashes, also when they are gone after a long training."""
    path = tmp_path / "resnet34.safetensors"
    path.write_bytes(b"weights")
    source = FileBackbone([path])
    described = f"resnet34.safetensors (SHA-256 {hashlib.sha256(b'weights').hexdigest()})"
    assert source.description == described
    path.unlink()
    assert source.description == described


def test_a_file_that_is_not_there(tmp_path):
    """A file that does not exist is refused by its name."""
    path = tmp_path / "more.safetensors"
    with pytest.raises(TrainingDataError) as refused:
        _ = FileBackbone([path]).description
    assert str(refused.value) == f"cannot read the starting weights {path}: No such file or directory"


def test_safetensors_that_are_none(tmp_path):
    """A file that only has the name of safetensors is refused."""
    path = tmp_path / "resnet34.safetensors"
    path.write_bytes(b"nothing")
    assert refusal(FileBackbone([path])).startswith(f"{path} is not a safetensors file: ")


@pytest.mark.parametrize("exists", [True, False])
def test_no_file_of_the_architecture(exists, tmp_path):
    """An architecture without a file is refused with the name that is looked for."""
    path = tmp_path / ("resnet50.safetensors" if exists else "resnet34.safetensors")
    if exists:
        safetensors.torch.save_file(STATE, path)
    assert refusal(FileBackbone([path])) == (
        "no file among --backbone-weights is named resnet34*; name one such file per member"
    )


def test_torchvisions_own_file(tmp_path, no_network):
    """A .pth whose content has the hash in its name is loaded, without a network."""
    path = write_pth(tmp_path, STATE)
    weights = FileBackbone([path]).weights("resnet34")
    assert torch.equal(weights["conv1.weight"], STATE["conv1.weight"])


@pytest.mark.parametrize("name", ["resnet34-00000000.pth", "resnet34.pth", "resnet34-{prefix}.bin", "resnet34-b.pth"])
def test_file_without_its_hash(name, tmp_path):
    """A .pth whose name does not hold its own hash is refused, with the hash that it has."""
    path = write_pth(tmp_path, STATE, name=name)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    assert refusal(FileBackbone([path])) == (
        f"{path} is neither safetensors nor an unchanged file of torchvision (its SHA-256 is {actual})"
    )


def test_changed_file(tmp_path):
    """A .pth that was changed after it got its name is refused."""
    path = write_pth(tmp_path, STATE)
    path.write_bytes(path.read_bytes() + b"\0")
    assert "nor an unchanged file of torchvision" in refusal(FileBackbone([path]))


def test_hostile_file(tmp_path):
    """A .pth with the right hash that holds more than tensors runs no code, and no hint says how it could."""
    effect = tmp_path / "effect"
    path = write_pth(tmp_path, {"conv1.weight": Hostile(effect)})
    assert refusal(FileBackbone([path])) == (
        f"{path} cannot be loaded: it is damaged, or holds something else than the tensors of a network"
    )
    assert not effect.exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 no zip"])
def test_file_that_is_no_tensor_file(content, tmp_path):
    """A .pth with the right hash that is nothing that torch knows is refused."""
    path = tmp_path / f"resnet34-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    assert refusal(FileBackbone([path])).startswith(f"{path} cannot be loaded: ")


def test_torchvision_without_a_network(no_network):
    """Without cache and network the user is told what else there is."""
    assert refusal(TorchvisionBackbone(), "resnet50") == (
        "the ImageNet weights of resnet50 are neither in torchvision's cache nor can they be downloaded; "
        "give a file with --backbone-weights, or start from random weights"
    )


def test_torchvision_from_its_cache(no_network):
    """Weights in torchvision's cache need no network."""
    torch.save(STATE, no_network / "resnet34-b627a593.pth")
    weights = TorchvisionBackbone().weights("resnet34")
    assert torch.equal(weights["conv1.weight"], STATE["conv1.weight"])


def test_hostile_file_in_torchvisions_cache(no_network, tmp_path):
    """What lies in the cache under the name of torchvision's weights runs no code: torchvision checks no hash there."""
    effect = tmp_path / "effect"
    torch.save({"conv1.weight": Hostile(effect)}, no_network / "resnet34-b627a593.pth")
    message = refusal(TorchvisionBackbone())
    assert message.startswith("the ImageNet weights of resnet34 in torchvision's cache cannot be loaded: ")
    assert not effect.exists()
