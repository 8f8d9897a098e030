"""Copies of an image are found, byte for byte or encoded anew; different films are not taken for copies."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from input_specs import make_spec
from PIL import Image
from scipy import ndimage

from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.errors import TrainingDataError
from xray_batch.standardize import make_picture
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.duplicates import (
    ImageHashes,
    find_copies,
    group_images,
    hash_decoded,
    hash_images,
    merge_copies,
)

SPEC = make_spec(96, 96, trim_borders=True, stretch=(0.5, 99.5), smooth=True)


@pytest.fixture(scope="module")
def films():
    """Return the pixels of the packaged films, all of different patients."""
    paths = [path for path in sorted(sample_files().iterdir()) if "01" <= path.name[:2] <= "06"]
    return [decode_file(path).pixels for path in paths]


def hash_of(pictures, tmp_path, contents=None):
    """Hash pictures whose files hold other bytes each, or those given."""
    paths = []
    for number in range(len(pictures)):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        path.write_bytes(contents[number] if contents else path.name.encode())
        paths.append(path)
    return hash_images(paths, np.stack([make_picture(picture, SPEC) for picture in pictures]))


def jpeg(film):
    """Return a film as JPEG of quality 40 shows it."""
    stream = io.BytesIO()
    Image.fromarray(np.round(film * 255).astype(np.uint8)).save(stream, "JPEG", quality=40)
    return np.asarray(Image.open(stream), dtype=np.float32) / 255


@pytest.mark.parametrize(
    "copy",
    [
        jpeg,
        lambda film: np.asarray(Image.fromarray(film).resize((300, 280), Image.Resampling.BICUBIC)).clip(0, 1),
        lambda film: film * np.float32(0.7) + np.float32(0.1),
        lambda film: film ** np.float32(0.8),
        lambda film: ndimage.gaussian_filter(film, 1.5),
    ],
    ids=["jpeg", "resized", "flatter", "gamma", "blurred"],
)
def test_copies_are_found(copy, films, tmp_path):
    """A copy has the same picture, however it was encoded; no film is taken for a copy of another."""
    pairs = find_copies(hash_of(films, tmp_path), hash_of([copy(film) for film in films], tmp_path))
    assert pairs.tolist() == [[number, number] for number in range(len(films))]


def test_same_bytes_are_found(films, tmp_path):
    """Files with the same bytes are copies, whatever their pictures are."""
    first = hash_of(films[:2], tmp_path, [b"one", b"two"])
    second = hash_of(films[2:4], tmp_path, [b"three", b"one"])
    assert find_copies(first, second).tolist() == [[0, 1]]


def test_of_a_decoded_file(films, tmp_path):
    """What a decode worker says of a file makes the same hashes as the file itself."""
    expected = hash_of(films[:1], tmp_path, [b"one"])
    found = hash_decoded(hashlib.sha256(b"one").hexdigest(), make_picture(films[0], SPEC))
    assert (found.content.tolist(), found.picture.tolist()) == (expected.content.tolist(), expected.picture.tolist())


def test_many_are_compared_in_parts(monkeypatch):
    """Lists longer than a block give the same pairs as one block would."""
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (1200, 32)).astype(np.uint8)
    picture[1100] = picture[3]
    hashes = ImageHashes(content=np.arange(1200, dtype=np.uint64), picture=picture)
    pairs = {tuple(pair) for pair in find_copies(hashes, hashes).tolist()}
    assert pairs == {(n, n) for n in range(1200)} | {(3, 1100), (1100, 3)}


def test_groups():
    """A patient's images and copies of them are one group, also by way of a third image; others are not."""
    content = np.array([1, 2, 3, 4, 5, 2, 3], dtype=np.uint64)
    picture = np.random.default_rng(0).integers(0, 256, (7, 32)).astype(np.uint8)
    hashes = ImageHashes(content=content, picture=picture)
    groups = group_images(["a", "a", "b", "c", "d", "e", "e"], hashes)
    # The second of a is the first of e, whose other one is that of b.
    assert groups[0] == groups[1] == groups[2] == groups[5] == groups[6]
    assert len(set(groups)) == 3


def test_part_of_hashes():
    """Hashes of some of the images are those of their indices."""
    hashes = ImageHashes(content=np.arange(4, dtype=np.uint64), picture=np.zeros((4, 32), np.uint8))
    assert hashes[np.array([2, 0])].content.tolist() == [2, 0]
    assert len(hashes) == 4


def labelled(*labels):
    """List images of these labels that exist nowhere, each of another patient."""
    return [
        LabelledImage(path=Path(f"{number}.png"), label=label, patient_id=f"P{number}", source="clinic")
        for number, label in enumerate(labels)
    ]


def test_copies_are_merged():
    """One file of each content is kept, the one that says most; a coarse label does not contradict a finer one."""
    images = labelled("pneumonia", "normal", "viral_pneumonia", "pneumonia", "normal")
    assert merge_copies(images, ["a", "b", "a", "a", "c"]) == [images[2], images[1], images[4]]


@pytest.mark.parametrize(
    ("labels", "first", "second"),
    [
        (("normal", "pneumonia"), 0, 1),
        (("covid19_pneumonia", "pneumonia"), 0, 1),
        (("pneumonia", "viral_pneumonia", "bacterial_pneumonia"), 1, 2),
    ],
)
def test_copies_whose_labels_contradict_each_other(labels, first, second):
    """The same bytes with labels that cannot both be right are refused with both files named."""
    with pytest.raises(TrainingDataError) as refused:
        merge_copies(labelled(*labels), ["a"] * len(labels))
    assert str(refused.value) == (
        f"{first}.png and {second}.png have the same bytes and not the same label: "
        f"{labels[first]} and {labels[second]}; a film has one label"
    )
