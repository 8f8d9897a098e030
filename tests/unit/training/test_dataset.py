"""Labelled images: what a list of labels may say, and how it is split."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from xray_batch.decode import decode_file
from xray_batch.errors import ReasonCode, TrainingDataError
from xray_batch.records import Finding
from xray_batch.standardize import resize
from xray_batch.training.dataset import (
    CLASSES,
    TARGETS,
    LabelledImage,
    fingerprint,
    load_pixels,
    read_labels,
    split_by_patient,
    write_split,
)

ROWS = [
    ("a/1.png", "normal", "P1", "clinic"),
    ("a/2.png", "viral_pneumonia", "P2", "clinic"),
    ("3.png", "pneumonia", "P3", "hospital"),
]


def labelled(count, *, label="normal", source="made-up", patient="P", images_per_patient=1):
    """List images that exist nowhere; enough to be split."""
    return [
        LabelledImage(
            path=Path(f"{source}/{label}/{number}.png"),
            label=label,
            patient_id=f"{patient}{label}{number // images_per_patient}",
            source=source,
        )
        for number in range(count)
    ]


def refusal(action, *arguments, **options):
    """Return the sentence with which training data are refused."""
    with pytest.raises(TrainingDataError) as refused:
        action(*arguments, **options)
    return str(refused.value)


def test_labels_are_read(make_data):
    """Each line of the list is an image, with its path relative to the list's folder."""
    data = make_data(ROWS)
    images = read_labels(data)
    assert images == read_labels(data / "labels.csv")
    assert images == [
        LabelledImage(path=data / file, label=label, patient_id=patient_id, source=source)
        for file, label, patient_id, source in ROWS
    ]


def test_source_may_be_empty(make_data):
    """An image without a source is of the source `unnamed`."""
    assert read_labels(make_data([("1.png", "normal", "P1", "")]))[0].source == "unnamed"


def test_labels_with_byte_order_mark(make_data):
    """A list as Excel saves it, with a byte order mark, is read."""
    data = make_data(ROWS)
    path = data / "labels.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_labels(data)) == len(ROWS)


def test_no_list(tmp_path):
    """A folder without `labels.csv` is refused by the name that was looked for."""
    assert refusal(read_labels, tmp_path) == (
        f"cannot read the list of labels {tmp_path}/labels.csv: No such file or directory"
    )


def test_empty_list(make_data):
    """A list of no images is refused."""
    data = make_data([])
    assert refusal(read_labels, data) == f"{data}/labels.csv lists no image"


def test_list_that_is_not_text(make_data):
    """A list in another encoding is refused."""
    data = make_data(ROWS)
    (data / "labels.csv").write_bytes("file,label,patient_id,source\nä.png,normal,1,x\n".encode("latin-1"))
    assert refusal(read_labels, data).startswith(f"the list of labels {data}/labels.csv is not CSV in UTF-8: ")


@pytest.mark.parametrize(
    "text",
    [
        "name,label,patient_id\n1.png,normal,P1\n",
        "file,label,patient,source\n1.png,normal,P1,clinic\n",
        "file,label,patient_id,source\n1.png,normal,,clinic\n",
        "file,label,patient_id,source\n1.png,normal\n",
        "file,label,patient_id,source\n,normal,P1,clinic,too,many\n",
    ],
)
def test_file_or_patient_is_not_named(text, make_data):
    """An image without a name or a patient is refused: it could not be kept on one side of the split."""
    data = make_data(ROWS)
    (data / "labels.csv").write_text(text, encoding="utf-8")
    header = text.splitlines()[0].replace(",", ", ")
    assert refusal(read_labels, data) == (
        f"{data}/labels.csv needs the columns file, label, patient_id and source; found {header}"
    )


def test_unknown_label(make_data):
    """An unknown label is refused with its image and the labels that there are."""
    data = make_data([*ROWS, ("4.png", "tuberculosis", "P4", "clinic")])
    assert refusal(read_labels, data) == (
        f"{data}/labels.csv: label of 4.png is 'tuberculosis', expected one of "
        "normal, bacterial_pneumonia, viral_pneumonia, covid19_pneumonia, pneumonia"
    )


def test_missing_files(make_data):
    """Images that do not exist are counted, and the first is named."""
    data = make_data(ROWS)
    (data / "a" / "2.png").unlink()
    (data / "3.png").unlink()
    assert refusal(read_labels, data) == (
        f"{data}/labels.csv lists 2 files that do not exist, the first is {data}/a/2.png"
    )


def test_fine_targets():
    """A fine label allows its finding alone, in the order of the classes."""
    assert list(CLASSES) == list(Finding)
    for position, finding in enumerate(CLASSES):
        (image,) = labelled(1, label=finding.value)
        assert image.target.dtype == bool
        assert np.flatnonzero(image.target).tolist() == [position]


def test_coarse_target():
    """A pneumonia of unknown cause is bacterial or viral: its images are older than COVID-19."""
    (image,) = labelled(1, label="pneumonia")
    assert [finding for finding, allowed in zip(CLASSES, image.target, strict=True) if allowed] == [
        Finding.BACTERIAL_PNEUMONIA,
        Finding.VIRAL_PNEUMONIA,
    ]


def test_every_finding_has_a_label():
    """Each finding is a label; the coarse label is the only other one."""
    assert TARGETS.keys() == {*Finding, "pneumonia"}


MIXED = [
    *labelled(200, label="normal", source="clinic", images_per_patient=4),
    *labelled(120, label="viral_pneumonia", source="clinic", images_per_patient=3),
    *labelled(60, label="normal", source="hospital"),
    *labelled(20, label="covid19_pneumonia", source="hospital"),
]


def test_split_shares_no_patient():
    """Every image is on one side, and every patient is on one side."""
    split = split_by_patient(MIXED, folds=10, seed=0)
    assert sorted([*split.training, *split.validation]) == list(range(len(MIXED)))
    sides = [{(MIXED[i].source, MIXED[i].patient_id) for i in side} for side in (split.training, split.validation)]
    assert not sides[0] & sides[1]


def test_patients_are_those_of_their_source():
    """The same patient ID in two sources is two patients: sources number theirs without asking each other."""
    images = [image for source in ("clinic", "hospital") for image in labelled(30, source=source)]
    images += [image for source in ("clinic", "hospital") for image in labelled(30, source=source, label="pneumonia")]
    sides = [split_by_patient(images, folds=5, seed=seed).validation for seed in range(3)]
    assert any(
        {images[i].patient_id for i in side if images[i].source == "clinic"}
        != {images[i].patient_id for i in side if images[i].source == "hospital"}
        for side in sides
    )


def test_split_is_stratified():
    """Each label of each source is held out in its proportion."""
    split = split_by_patient(MIXED, folds=10, seed=0)
    held_out = Counter((MIXED[i].source, MIXED[i].label) for i in split.validation)
    for stratum, count in Counter((image.source, image.label) for image in MIXED).items():
        assert abs(held_out[stratum] - count / 10) <= 4


def test_split_is_repeatable():
    """The same seed gives the same split, another seed another one."""
    first, again, other = (split_by_patient(MIXED, folds=10, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.validation, again.validation)
    assert not np.array_equal(first.validation, other.validation)


def test_split_of_one_label():
    """Images of one label are refused."""
    images = [*labelled(30, source="clinic"), *labelled(30, source="hospital")]
    assert refusal(split_by_patient, images, folds=10, seed=0) == (
        "all images have the label 'normal'; a classifier needs at least two"
    )


def test_split_of_too_few_patients():
    """Fewer patients than parts are refused."""
    images = [*labelled(20, images_per_patient=10), *labelled(20, label="pneumonia", images_per_patient=10)]
    assert refusal(split_by_patient, images, folds=10, seed=0) == "4 patients cannot be split into 10 parts"


def test_split_of_too_few_images():
    """Too few images of every label are refused."""
    images = [*labelled(8), *labelled(8, label="pneumonia")]
    assert refusal(split_by_patient, images, folds=10, seed=0).startswith(
        "no label of any source has as many as 10 images"
    )


def test_pixels_are_the_services(make_data):
    """Loaded pixels are the decoded and resized ones; progress is told of each image."""
    images = read_labels(make_data(ROWS))
    steps = []
    pixels = load_pixels(images, 40, 32, progress=steps.append)
    assert pixels.shape == (3, 40, 32)
    assert pixels.dtype == np.float32
    assert steps == [1, 1, 1]
    for image, loaded in zip(images, pixels, strict=True):
        assert np.array_equal(loaded, resize(decode_file(image.path).pixels, 40, 32))


def test_image_that_cannot_be_decoded(make_data):
    """An image that the service would reject is refused, by its name and with the service's reason."""
    images = read_labels(make_data(ROWS))
    images[1].path.write_bytes(b"")
    sentence = refusal(load_pixels, images, 32, 32, progress=lambda images: None)
    assert sentence.startswith(f"{images[1].path} cannot be used for training ({ReasonCode.EMPTY_FILE}): ")


def test_fingerprint_is_of_the_content(make_data):
    """The fingerprint does not depend on the folder's place or the order of the lines."""
    first, second = read_labels(make_data(ROWS)), read_labels(make_data(ROWS, "elsewhere"))
    assert len(fingerprint(first)) == 64
    assert fingerprint(first) == fingerprint(second) == fingerprint(second[::-1])


@pytest.mark.parametrize("change", ["pixels", "label", "patient_id", "source", "fewer"])
def test_fingerprint_changes(change, make_data):
    """Another pixel, label, patient or source, or an image less, gives another fingerprint."""
    rows = [*ROWS]
    if change == "fewer":
        rows.pop()
    changes = {"label": ("bacterial_pneumonia", "P2", "clinic"), "patient_id": ("viral_pneumonia", "P9", "clinic")}
    changes["source"] = ("viral_pneumonia", "P2", "hospital")
    if change in changes:
        rows[1] = ("a/2.png", *changes[change])
    before, after = read_labels(make_data(ROWS)), read_labels(make_data(rows, "changed"))
    if change == "pixels":
        after[0].path.write_bytes(after[1].path.read_bytes())
    assert fingerprint(before) != fingerprint(after)


def test_split_is_written(make_data, tmp_path):
    """The file of the split names the side of every image, in the columns of the list of labels."""
    images = labelled(20) + labelled(20, label="pneumonia")
    split = split_by_patient(images, folds=10, seed=0)
    write_split(tmp_path / "split.csv", images, split)
    header, *lines = (tmp_path / "split.csv").read_text(encoding="utf-8").splitlines()
    assert header == "file,label,patient_id,source,split"
    first = images[split.validation[0]]
    assert f"{first.path},{first.label},{first.patient_id},{first.source},validation" in lines
    assert Counter(line.rsplit(",", 1)[1] for line in lines) == {"training": 36, "validation": 4}
