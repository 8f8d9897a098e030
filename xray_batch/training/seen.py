"""Recognize images that a bundle was trained on: figures measured on them are too good."""

import numpy as np
import numpy.typing as npt

from xray_batch.bundle import Bundle
from xray_batch.training.duplicates import ImageHashes, find_copies


def training_hashes(bundle: Bundle) -> ImageHashes | None:
    """Return the hashes of the images that `bundle` was trained on, None where it does not record them.

    Raises
    ------
    BundleError
        If they are damaged.
    """
    known = bundle.load_hashes()
    return None if known is None else ImageHashes(content=known[0], picture=known[1])


def find_seen(known: ImageHashes, hashes: ImageHashes) -> npt.NDArray[np.bool_]:
    """Tell which images are, or are copies of, those of `known`.

    Parameters
    ----------
    hashes
        Of N images and their pictures as the bundle's preprocessing makes them, standardized or not.

    Returns
    -------
    numpy.ndarray
        Shape (N,).
    """
    copies = find_copies(hashes, known)
    seen = np.zeros(len(hashes), dtype=np.bool_)
    seen[copies[:, 0]] = True
    return seen
