"""Recognize images that a bundle was trained on: figures measured on them are too good."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xray_batch.bundle import Bundle
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.duplicates import ImageHashes, find_copies, hash_images


def find_seen(
    bundle: Bundle, images: Sequence[LabelledImage], pixels: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_] | None:
    """Tell which images, or copies of them, `bundle` was trained on.

    Parameters
    ----------
    pixels
        Shape (N, rows, columns): the pictures as the bundle's preprocessing makes them, standardized or not.

    Returns
    -------
    numpy.ndarray or None
        Shape (N,); None where the bundle does not know what it was trained on.

    Raises
    ------
    BundleError
        If the bundle's hashes are damaged.
    """
    known = bundle.load_hashes()
    if known is None:
        return None
    content, picture = known
    copies = find_copies(
        hash_images([image.path for image in images], pixels), ImageHashes(content=content, picture=picture)
    )
    seen = np.zeros(len(images), dtype=np.bool_)
    seen[copies[:, 0]] = True
    return seen
