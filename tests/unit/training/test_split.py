"""Splits: what shares no patient, and what is refused before anything is decoded."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xray_batch.errors import TrainingDataError
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.split import (
    check_images,
    check_splits,
    find_test_images,
    make_leaking_splits,
    make_splits,
    write_split,
)


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


def by_patient(images):
    """Group images by patient alone."""
    return np.unique([image.patient for image in images], return_inverse=True)[1]


def split(images, folds=10, seed=0):
    """Return the first split."""
    return make_splits(images, by_patient(images), folds=folds, seed=seed)[0]


def refusal(action, *arguments, **options):
    """Return the sentence with which training data are refused."""
    with pytest.raises(TrainingDataError) as refused:
        action(*arguments, **options)
    return str(refused.value)


def on_side(side, images):
    """Put images on a side."""
    return [replace(image, side=side) for image in images]


MIXED = [
    *labelled(200, label="normal", source="clinic", images_per_patient=4),
    *labelled(120, label="viral_pneumonia", source="clinic", images_per_patient=3),
    *labelled(60, label="normal", source="hospital"),
    *labelled(20, label="covid19_pneumonia", source="hospital"),
]


def test_sides_share_no_patient():
    """Every image is on one side, and every patient is on one side."""
    first = split(MIXED)
    assert sorted([*first.training, *first.validation]) == list(range(len(MIXED)))
    sides = [{MIXED[i].patient for i in side} for side in (first.training, first.validation)]
    assert not sides[0] & sides[1]


def test_folds_hold_out_every_image_once():
    """Five folds hold out five parts that are the whole, and share no patient."""
    splits = make_splits(MIXED, by_patient(MIXED), folds=5, seed=0)
    held_out = np.concatenate([fold.validation for fold in splits])
    assert sorted(held_out) == list(range(len(MIXED)))
    patients = [{MIXED[i].patient for i in fold.validation} for fold in splits]
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_copies_stay_together():
    """Two patients whose images are in one group are never on two sides."""
    groups = by_patient(MIXED)
    one, other = groups[0], groups[150]
    groups[groups == other] = one
    for fold in make_splits(MIXED, groups, folds=5, seed=0):
        held_out = set(groups[fold.validation])
        assert one not in held_out or one not in set(groups[fold.training])


def test_patients_are_those_of_their_source():
    """The same patient ID in two sources is two patients: sources number theirs without asking each other."""
    first, other = (replace(labelled(1)[0], source=source) for source in ("clinic", "hospital"))
    assert first.patient_id == other.patient_id
    assert first.patient != other.patient


def test_split_is_stratified():
    """Each label of each source is held out in its proportion."""
    held_out = Counter((MIXED[i].source, MIXED[i].label) for i in split(MIXED).validation)
    for stratum, count in Counter((image.source, image.label) for image in MIXED).items():
        assert abs(held_out[stratum] - count / 10) <= 4


def test_split_is_repeatable():
    """The same seed gives the same split, another seed another one."""
    first, again, other = (split(MIXED, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.validation, again.validation)
    assert not np.array_equal(first.validation, other.validation)


def test_test_images_are_on_no_side():
    """What the list sets aside is neither trained nor calibrated on."""
    images = [replace(image, side="test") if number % 10 == 0 else image for number, image in enumerate(MIXED)]
    groups = np.arange(len(images))
    aside = find_test_images(images)
    assert len(aside) >= 20
    for fold in make_splits(images, groups, folds=5, seed=0):
        assert not set(aside) & {*fold.training, *fold.validation}


def with_sides(validation, *, leaking=False):
    """Say for each image of MIXED which side it is on, by its patient, or by itself if `leaking`."""
    keys = [number if leaking else int(image.path.stem) // 12 for number, image in enumerate(MIXED)]
    sides = ["validation" if key in validation else "training" for key in keys]
    return [replace(image, side=side) for image, side in zip(MIXED, sides, strict=True)]


def test_sides_of_the_list():
    """Where the list says which images are for validation, they are, and there is one split."""
    images = with_sides({0, 1})
    (only,) = make_splits(images, by_patient(images), folds=5, seed=0)
    assert {images[i].side for i in only.validation} == {"validation"}
    assert {images[i].side for i in only.training} == {"training"}


def test_sides_that_leak():
    """A list that puts one patient on both sides is refused, with two of the images."""
    images = with_sides({1}, leaking=True)
    assert refusal(make_splits, images, by_patient(images), folds=5, seed=0) == (
        "clinic/normal/0.png (training) and clinic/normal/1.png (validation) show one patient: the sides would leak"
    )


def test_copies_that_leak():
    """A list with copies of one image on two sides is refused, too."""
    images = [replace(image, side="validation" if i == 0 else "training") for i, image in enumerate(labelled(20))]
    groups = np.arange(20)
    groups[7] = 0
    assert refusal(make_splits, images, groups, folds=5, seed=0).endswith(
        "are one film or linked by copies of films: the sides would leak"
    )


def test_copies_of_few_pictures():
    """Images that are all copies of two pictures cannot be split into five parts."""
    assert refusal(make_splits, MIXED, np.arange(len(MIXED)) % 2, folds=5, seed=0) == (
        "the images are copies of so few pictures that they cannot be split into 5 parts"
    )


def test_leaking_splits():
    """A split by image has patients on both sides, as the older work had."""
    images = [replace(MIXED[0], side="test"), *MIXED[1:]]
    (first, *_) = make_leaking_splits(images, folds=5, seed=42)
    sides = [{MIXED[i].patient for i in side} for side in (first.training, first.validation)]
    assert len(sides[0] & sides[1]) > 20
    assert len(first.validation) == len(MIXED) / 5
    assert 0 not in {*first.training, *first.validation}


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (
            [*labelled(30, source="clinic"), *labelled(30, source="hospital")],
            "all images have the label 'normal'; a classifier needs at least two",
        ),
        (
            [*labelled(20, images_per_patient=10), *labelled(20, label="pneumonia", images_per_patient=10)],
            "4 patients cannot be split into 10 parts",
        ),
        (
            [*labelled(8), *labelled(8, label="pneumonia")],
            "no label of any source has as many as 10 images; the held-out part would be a matter of luck",
        ),
        (
            [*labelled(30, images_per_patient=30), *labelled(20, label="pneumonia")],
            "patient 'made-up:Pnormal0' has 30 of 50 images; is patient_id the patient?",
        ),
        (
            [replace(labelled(1)[0], side="training"), *labelled(30), *labelled(30, label="pneumonia")],
            "60 images have no side in the column split, but others have; name all or none",
        ),
        (
            [*labelled(30, label="bacterial_pneumonia"), *labelled(30, label="viral_pneumonia")],
            "the images need both normal and a pneumonia among their labels; "
            "found bacterial_pneumonia and viral_pneumonia",
        ),
        (
            [*on_side("training", labelled(30, label="pneumonia")), *on_side("validation", MIXED)],
            "the images of the side 'training' need both normal and a pneumonia among their labels; found pneumonia",
        ),
        (
            [*on_side("training", MIXED), *on_side("validation", labelled(30))],
            "the images of the side 'validation' need both normal and a pneumonia among their labels; found normal",
        ),
        (
            on_side("validation", MIXED),
            "the images of the side 'training' need both normal and a pneumonia among their labels; found nothing",
        ),
        (on_side("test", MIXED), "all 400 images have the side 'test'; none is left for training"),
        (
            [*on_side("test", MIXED), *labelled(8), *labelled(8, label="pneumonia")],
            "no label of any source has as many as 10 images; the held-out part would be a matter of luck",
        ),
    ],
)
def test_what_cannot_be_split(images, sentence):
    """What cannot be split is refused with the reason."""
    assert refusal(check_images, images, 10) == sentence


def test_what_can_be_split():
    """Enough images of several labels pass, also where some are set aside for a test."""
    check_images(MIXED, 10)
    check_images([replace(MIXED[0], side="test"), *MIXED[1:]], 10)
    check_images(with_sides({0, 1}), 10)
    check_images(on_side("training", MIXED), 10)


def one_patient(label, other):
    """List 40 images of one label and one patient, and 60 of another label and as many patients: they pass at first."""
    images = [*labelled(40, label=label, images_per_patient=40), *labelled(60, label=other)]
    check_images(images, 10)
    return images


@pytest.mark.parametrize(
    ("label", "other", "what"),
    [("normal", "pneumonia", "normal"), ("viral_pneumonia", "normal", "pneumonia")],
)
def test_a_class_of_one_patient(label, other, what):
    """A class of which one patient has all images is missing on one side, whichever that is, and in one fold."""
    images = one_patient(label, other)
    groups = by_patient(images)
    splits = make_splits(images, groups, folds=5, seed=0)
    lacking = next(n for n, split in enumerate(splits) if not any(images[i].label == label for i in split.training))
    for chosen, side in (
        (splits, f"training side of fold {lacking + 1}"),
        ([splits[lacking]], "training side of the split"),
        ([splits[lacking - 1]], "validation side of the split"),
    ):
        assert refusal(check_splits, images, groups, chosen) == (
            f"the {side} has no image of {what}: there are too few, 40 that are not set aside, of 1 patients (copies "
            "of one image count as one patient); add images of other patients"
        )


def test_a_class_of_copies():
    """Copies of one picture under many patient IDs are one group; what is set aside for a test does not count."""
    images = [*labelled(20), *labelled(60, label="pneumonia"), replace(labelled(21)[20], side="test")]
    groups = by_patient(images)
    groups[:20] = groups[0]
    splits = make_splits(images, groups, folds=5, seed=0)
    sentence = refusal(check_splits, images, groups, splits)
    assert "no image of normal: there are too few, 20 that are not set aside, of 1 patients" in sentence


def test_a_training_side_of_one_patient():
    """One patient with normal and other images cannot be parted for the gate, whatever the other side has."""
    one, others = ([*labelled(20), *labelled(20, label="pneumonia")] for _ in range(2))
    images = on_side("training", [replace(image, patient_id="one") for image in one]) + on_side("validation", others)
    check_images(images, 10)
    groups = by_patient(images)
    assert refusal(check_splits, images, groups, make_splits(images, groups, folds=10, seed=0)) == (
        "all images of the training side of the split show one patient (copies of one image count as one patient); "
        "add images of other patients"
    )


def test_sides_with_both():
    """Folds pass where each training side has both, although a held-out part has none of one label."""
    images = [*labelled(2), *labelled(60, label="pneumonia")]
    groups = by_patient(images)
    check_splits(images, groups, make_splits(images, groups, folds=5, seed=0))
    check_splits(MIXED, by_patient(MIXED), [split(MIXED)])


def test_split_is_written(tmp_path):
    """The file of the split names the side, the fold and the group of every image."""
    images = [*labelled(20), *labelled(20, label="pneumonia"), replace(labelled(1, source="other")[0], side="test")]
    groups = by_patient(images)
    splits = make_splits(images, groups, folds=10, seed=0)
    write_split(tmp_path / "split.csv", images, groups, splits[:2])
    with (tmp_path / "split.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["file"] for row in rows] == [str(image.path.absolute()) for image in images]
    assert Counter(row["split"] for row in rows) == {"training": 32, "validation": 8, "test": 1}
    for number, fold in enumerate(splits[:2], start=1):
        assert all(rows[i]["fold"] == str(number) for i in fold.validation)
    assert {row["fold"] for row in rows if row["split"] != "validation"} == {""}
    assert len({row["group"] for row in rows}) == len(set(groups))
    assert (tmp_path / "split.csv").stat().st_mode & 0o777 == 0o640


def test_no_cell_of_a_split_is_a_formula(tmp_path):
    """A Patient ID that a spreadsheet would run gets an apostrophe."""
    images = [replace(image, patient_id=f"=1+{image.patient_id}") for image in MIXED]
    write_split(tmp_path / "split.csv", images, by_patient(images), [split(images)])
    with (tmp_path / "split.csv").open(encoding="utf-8", newline="") as lines:
        assert {row["patient_id"][:3] for row in csv.DictReader(lines)} == {"'=1"}
