"""Films that were measured, decoded once more in this process, to be changed or drawn."""

from pathlib import Path

from xray_batch.decode import decode_file
from xray_batch.decode.memory import limited_memory
from xray_batch.errors import RejectedInputError, TransientError
from xray_batch.records import GrayscaleImage, InputSpec
from xray_batch.standardize import prepare
from xray_batch.training.duplicates import ImageHashes, hash_images
from xray_batch.training.evaluation.predictions import FilmPrediction
from xray_batch.training.seen import find_seen


def decode_again(path: Path, address_space: int) -> GrayscaleImage | None:
    """Decode a file; None where it cannot be read any more, or takes too much memory.

    Parameters
    ----------
    address_space
        Bytes that decoding may take.
    """
    try:
        with limited_memory(address_space):
            return decode_file(path)
    except (RejectedInputError, TransientError, MemoryError):
        return None


def is_seen(film: FilmPrediction, image: GrayscaleImage, known: ImageHashes | None, spec: InputSpec) -> bool | None:
    """Tell whether a bundle was trained on a film, where its predictions do not say that; None: not known.

    Predictions of a cross-validation do not: whoever made them had not seen the film, the bundle's members may have.

    Parameters
    ----------
    image
        The film, decoded once more.
    known, spec
        Of the bundle: hashes of the images that it was trained on, and its preprocessing.
    """
    if film.seen is not None or known is None:
        return film.seen
    try:
        hashes = hash_images([film.image.path], prepare(image, spec).pixels[None])
    except OSError:  # the file went away meanwhile
        return None
    return bool(find_seen(known, hashes)[0])
