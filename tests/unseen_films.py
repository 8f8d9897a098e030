"""Real films that a bundle was not trained on."""

from hashlib import sha256
from pathlib import Path

from xray_batch.bundle import Bundle
from xray_batch.training.dataset import LabelledImage, read_labels


def unseen_films(bundle: Bundle, shared_data: Path) -> list[LabelledImage]:
    """Return the films of the shared data set whose bytes are not among the bundle's training images."""
    hashes = bundle.load_hashes()
    assert hashes is not None
    trained_on = set(hashes[0].tolist())
    hashed = ((image, sha256(image.path.read_bytes()).digest()) for image in read_labels(shared_data / "cxr"))
    return [image for image, digest in hashed if int.from_bytes(digest[:8], "big") not in trained_on]
