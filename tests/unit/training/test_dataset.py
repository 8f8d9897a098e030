"""Labelled images: what a list of labels, or folders, may say."""

from pathlib import Path

import numpy as np
import pytest

from xray_batch.errors import TrainingDataError
from xray_batch.records import Finding
from xray_batch.training.dataset import (
    CLASSES,
    TARGETS,
    LabelledImage,
    fingerprint,
    read_images,
    read_labels,
)

ROWS = [
    ("a/1.png", "normal", "P1", "clinic"),
    ("a/2.png", "viral_pneumonia", "P2", "clinic"),
    ("3.png", "pneumonia", "P3", "hospital"),
]


def labelled(label):
    """Return an image that exists nowhere."""
    return LabelledImage(path=Path("1.png"), label=label, patient_id="P1", source="clinic")


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


def test_blanks_around_cells(make_data):
    """Blanks around a cell or the name of a column mean nothing: `P1` and `P1 ` are one patient."""
    data = make_data([("1.png", "normal", "P1", "clinic")])
    lines = "file, label ,patient_id,source,split\n 1.png,normal ,P1 ,\tclinic, test \n"
    (data / "labels.csv").write_text(lines, encoding="utf-8")
    assert read_labels(data) == [
        LabelledImage(path=data / "1.png", label="normal", patient_id="P1", source="clinic", side="test")
    ]


def test_case_of_a_label(make_data):
    """A label is one in whatever case, as a folder's name is."""
    data = make_data([("1.png", "NORMAL", "P1", "clinic"), ("2.png", "Viral_Pneumonia", "P2", "clinic")])
    assert [image.label for image in read_labels(data)] == ["normal", "viral_pneumonia"]


def test_no_list(tmp_path):
    """A folder without `labels.csv` is refused by the name that was looked for."""
    assert refusal(read_labels, tmp_path) == (
        f"cannot read the list of labels {tmp_path}/labels.csv: No such file or directory"
    )


def test_empty_file(tmp_path):
    """A list without even the names of the columns is refused."""
    (tmp_path / "labels.csv").write_text("")
    assert refusal(read_labels, tmp_path) == (
        f"{tmp_path}/labels.csv needs the columns file, label and patient_id, separated by commas; found nothing"
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
    "header",
    ["name,label,patient_id", "file,label,patient,source", "file,patient_id,source", "file;label;patient_id;source"],
)
def test_columns_that_are_missing(header, make_data):
    """A list without one of the columns is refused with those that it has."""
    data = make_data(ROWS)
    (data / "labels.csv").write_text(f"{header}\n1.png,normal,P1\n", encoding="utf-8")
    assert refusal(read_labels, data) == (
        f"{data}/labels.csv needs the columns file, label and patient_id, separated by commas; "
        f"found {', '.join(map(repr, header.split(',')))}"
    )


@pytest.mark.parametrize(
    ("row", "cell"),
    [
        ("1.png,normal,,clinic", "patient_id"),
        ("1.png,normal, ,clinic", "patient_id"),
        ("1.png,normal", "patient_id"),
        (",normal,P1,clinic,too,many", "file"),
    ],
)
def test_file_or_patient_is_not_named(row, cell, make_data):
    """An image without a name or a patient is refused by its line: it could not be kept on one side of the split."""
    data = make_data(ROWS)
    lines = (data / "labels.csv").read_text(encoding="utf-8").splitlines()
    (data / "labels.csv").write_text("\n".join([*lines, row, *lines[1:]]), encoding="utf-8")
    assert refusal(read_labels, data) == f"{data}/labels.csv, line 5: the cell {cell} is empty, expected a value"


def test_more_cells_than_columns(make_data):
    """A comma that splits a cell in two would move all others: it is refused by its line; empty cells are not."""
    data = make_data(ROWS)
    lines = (data / "labels.csv").read_text(encoding="utf-8").splitlines()
    (data / "labels.csv").write_text("\n".join(f"{line},, " for line in lines), encoding="utf-8")
    assert len(read_labels(data)) == len(ROWS)
    (data / "labels.csv").write_text("\n".join([*lines, "1.png,normal,Doe, John,clinic"]), encoding="utf-8")
    assert refusal(read_labels, data) == (
        f"{data}/labels.csv, line 5: there are more cells than columns; a text with a comma in it belongs in "
        "quotation marks"
    )


def test_a_column_that_is_there_twice(make_data):
    """Which of two columns is meant nobody can tell; those that are not read may have any names."""
    data = make_data(ROWS)
    lines = (data / "labels.csv").read_text(encoding="utf-8").splitlines()
    for names, found in ((("ward", "ward"), None), (("ward", " label"), "label"), (("split", "split"), "split")):
        text = "\n".join([f"{lines[0]},{','.join(names)}", *(f"{line},," for line in lines[1:])])
        (data / "labels.csv").write_text(text, encoding="utf-8")
        if found is None:
            assert len(read_labels(data)) == len(ROWS)
        else:
            assert refusal(read_labels, data) == (
                f"{data}/labels.csv has the column {found} more than once; expected each column once"
            )


def test_unknown_label(make_data):
    """An unknown label is refused with its image and the labels that there are."""
    data = make_data([*ROWS, ("4.png", "Tuberculosis", "P4", "clinic")])
    assert refusal(read_labels, data) == (
        f"{data}/labels.csv: label of 4.png is 'Tuberculosis', expected one of "
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
        image = labelled(finding.value)
        assert image.target.dtype == bool
        assert np.flatnonzero(image.target).tolist() == [position]


def test_coarse_target():
    """A pneumonia of unknown cause is bacterial or viral: its images are older than COVID-19."""
    image = labelled("pneumonia")
    assert [finding for finding, allowed in zip(CLASSES, image.target, strict=True) if allowed] == [
        Finding.BACTERIAL_PNEUMONIA,
        Finding.VIRAL_PNEUMONIA,
    ]


def test_every_finding_has_a_label():
    """Each finding is a label; the coarse label is the only other one."""
    assert TARGETS.keys() == {*Finding, "pneumonia"}


def test_sides_are_read(make_data):
    """A column `split` says which side an image is on; where it is empty, nothing is said."""
    data = make_data(ROWS)
    (data / "labels.csv").write_text(
        "file,label,patient_id,source,split\na/1.png,normal,P1,x,test\n3.png,pneumonia,P3,x,\n", encoding="utf-8"
    )
    assert [image.side for image in read_labels(data)] == ["test", None]


def test_unknown_side(make_data):
    """Another word in the column `split` is refused, with those that there are."""
    data = make_data(ROWS)
    (data / "labels.csv").write_text(
        "file,label,patient_id,source,split\na/1.png,normal,P1,x,train\n", encoding="utf-8"
    )
    assert refusal(read_labels, data) == (
        f"{data}/labels.csv: split of a/1.png is 'train', expected training, validation, test or nothing"
    )


class TestFolders:
    """A data set that is nothing but folders, one for each label."""

    @pytest.fixture
    def folders(self, tmp_path):
        """Make such folders, with hidden files and folders, and a list beside the images."""
        for file in (
            *("NORMAL/1.png", "NORMAL/deep/2.JPG", "NORMAL/IM0001", "Bacterial_Pneumonia/3.dcm"),
            *(".ipynb_checkpoints/1.png", "@eaDir/1.png"),
            *("NORMAL/.DS_Store", "NORMAL/.thumbnails/1.png", "NORMAL/labels.csv", "NORMAL/Thumbs.db", "NORMAL/x.part"),
        ):
            path = tmp_path / "set" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        return tmp_path / "set"

    def test_labels_are_the_folders(self, folders):
        """Each file, of any suffix, has the label of its folder, in whatever case, and is a patient of its own."""
        images = read_images(folders)
        assert [(image.path.name, image.label, image.source) for image in images] == [
            ("3.dcm", "bacterial_pneumonia", "set"),
            ("1.png", "normal", "set"),
            ("IM0001", "normal", "set"),
            ("2.JPG", "normal", "set"),
        ]
        assert len({image.patient for image in images}) == 4

    def test_a_list_comes_first(self, make_data):
        """A folder with a list is read by its list, whatever folders it has."""
        data = make_data(ROWS)
        assert read_images(data) == read_labels(data)

    def test_folder_of_another_name(self, folders):
        """A folder that is named for no label is refused by its name, with the labels that there are."""
        (folders / "tuberculosis").mkdir()
        assert refusal(read_images, folders) == (
            f"{folders}/tuberculosis is not named for a label, expected one of "
            "normal, bacterial_pneumonia, viral_pneumonia, covid19_pneumonia, pneumonia"
        )

    def test_no_folders(self, tmp_path):
        """A folder with neither a list nor folders is refused by what was looked for."""
        assert refusal(read_images, tmp_path).startswith(f"{tmp_path} holds neither labels.csv nor folders named for ")

    def test_empty_folders(self, tmp_path):
        """Folders without any image are refused."""
        (tmp_path / "normal").mkdir()
        assert refusal(read_images, tmp_path) == f"the folders in {tmp_path} hold no files; expected images in normal"


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
