"""Pictures of labelled images: made by the service's workers, or refused with its reasons."""

import numpy as np
import pytest
from input_specs import make_spec

from xray_batch.decode import decode_file
from xray_batch.errors import ReasonCode, TrainingDataError
from xray_batch.settings import Settings
from xray_batch.standardize import make_picture
from xray_batch.training import pixels as module
from xray_batch.training.dataset import read_labels
from xray_batch.training.pixels import Decoding, check_memory, load_pixels

ROWS = [(f"{number}.png", "normal", f"P{number}", "clinic") for number in range(5)]

DECODING = Decoding.from_settings(Settings(decode_workers=2))


def test_pixels_are_the_services(make_data):
    """Loaded pixels are the service's, in the order of the list, not standardized; progress is told of each."""
    images = read_labels(make_data(ROWS))
    spec = make_spec(40, 32, stretch=(1.0, 99.0))
    steps = []
    pixels = load_pixels(images, spec, decoding=DECODING, progress=steps.append)
    assert pixels.shape == (5, 40, 32)
    assert pixels.dtype == np.float32
    assert steps == [1] * 5
    for image, loaded in zip(images, pixels, strict=True):
        assert np.array_equal(loaded, make_picture(decode_file(image.path).pixels, spec))


def test_images_that_cannot_be_decoded(make_data):
    """Images that the service would refuse are counted, and the first is named with the service's reason."""
    images = read_labels(make_data(ROWS))
    images[1].path.write_bytes(b"")
    images[3].path.write_bytes(b"no image")
    with pytest.raises(TrainingDataError) as refused:
        load_pixels(images, make_spec(), decoding=DECODING, progress=lambda images: None)
    sentence = str(refused.value)
    assert sentence.startswith(f"2 of 5 images cannot be used for training, the first is {images[1].path}: ")
    assert sentence.endswith(f"({ReasonCode.EMPTY_FILE})")


def test_a_file_that_cannot_be_read(make_data):
    """A file that the system does not let be read is refused with what the system says about it."""
    images = read_labels(make_data(ROWS))
    images[2].path.unlink()
    images[2].path.symlink_to("/proc/self/mem")  # a regular file that nobody can read from its start, root neither
    with pytest.raises(TrainingDataError) as refused:
        load_pixels(images, make_spec(), decoding=DECODING, progress=lambda images: None)
    assert str(refused.value) == (
        f"1 of 5 images cannot be used for training, the first is {images[2].path}: "
        "The file could not be read: Input/output error."
    )


def test_more_pictures_than_the_memory_holds(make_data, monkeypatch):
    """Sixteen bytes a pixel must be available; the refusal says what is needed, what there is, and what to do."""
    images = read_labels(make_data(ROWS)) * 10_000
    needed = 50_000 * 224 * 224 * 16
    monkeypatch.setattr(module, "available_memory", lambda: needed)
    check_memory(images, make_spec(224, 224), afterwards=0)
    monkeypatch.setattr(module, "available_memory", lambda: 3 << 30)
    with pytest.raises(TrainingDataError) as refused:
        check_memory(images, make_spec(224, 224), afterwards=0)
    assert str(refused.value) == (
        "50000 images of 224 x 224 pixels take 37.4 GiB of memory in a training, and 3.0 GiB are available; "
        "let the stages end at a smaller side, or list fewer images"
    )


def test_what_comes_after_the_training_counts(make_data, monkeypatch):
    """What the gate takes must be available beside the pictures, of which one copy is left by then."""
    images, pictures = read_labels(make_data(ROWS)), 5 * 64 * 64 * 4
    monkeypatch.setattr(module, "available_memory", lambda: 5 * pictures)
    check_memory(images, make_spec(64, 64), afterwards=4 * pictures)
    with pytest.raises(TrainingDataError, match=r"^5 images of 64 x 64 pixels take"):
        check_memory(images, make_spec(64, 64), afterwards=4 * pictures + 1)
