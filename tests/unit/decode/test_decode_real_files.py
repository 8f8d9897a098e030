"""Real DICOM files of many makers: chest radiographs render, everything else is refused with its code."""

import csv

import numpy as np
import pytest

from xray_batch.decode import decode_file, open_source
from xray_batch.errors import RejectedInputError

#: File in `shared/data/dicom`: shape, view, rendering.
CHEST = {
    "chest/nih_nhsx_nofinding.dcm": ((1024, 1024), None, "identity"),
    "chest/nih_00000001_000.dcm": ((1024, 1024), None, "identity"),
    "chest/philips_RG1_J2KI.dcm": ((1955, 1841), "PA", "window:LINEAR"),
    "chest/fuji_CR-MONO1-10_explicitLE.dcm": ((440, 440), "PA", "window:LINEAR"),
}

#: File in `shared/data/dicom`: the reason code it gets.
REFUSED = {
    "reject/hip_RG2_J2KI.dcm": "not_a_chest",
    "reject/extremity_RG3_J2KI.dcm": "not_a_chest",
    "reject/extremity_RG3_JPLY.dcm": "not_a_chest",
    "reject/extremity_RG3_JLSN.dcm": "not_a_chest",
    "reject/cspine_CR_LL_16x16.dcm": "not_a_chest",  # lateral and small too; the body part is asked first
    "reject/pydicom__CT_small.dcm": "unsupported_modality",
    "reject/pydicom__MR_small.dcm": "unsupported_modality",
    "reject/pydicom__rtplan.dcm": "unsupported_modality",
    "reject/pydicom__test-SR.dcm": "unsupported_modality",
    "reject/pydicom__examples_rgb_color.dcm": "unsupported_modality",
    "reject/pydicom__examples_palette.dcm": "unsupported_modality",
    "reject/pydicom__liver_1frame.dcm": "unsupported_modality",
    "reject/DICOMDIR": "unsupported_sop_class",
    "broken/pydicom__no_meta.dcm": "unreadable_file",  # its first byte is missing
    "broken/pydicom__meta_missing_tsyntax.dcm": "unreadable_file",
    "broken/pydicom__rtplan_truncated.dcm": "truncated",
    "broken/pydicom__ExplVR_BigEndNoMeta.dcm": "unreadable_file",
    "broken/pydicom__ExplVR_LitEndNoMeta.dcm": "unsupported_modality",
}


@pytest.fixture
def folder(shared_data):
    """Folder of real DICOM files; not everybody has it."""
    return shared_data / "dicom"


@pytest.mark.parametrize("name", CHEST)
def test_chest(name, folder):
    """A real chest radiograph renders: mediastinum bright, lungs darker, not flat."""
    shape, view, rendering = CHEST[name]
    image = decode_file(folder / name)
    rows, columns = shape
    assert image.pixels.shape == shape
    assert image.header.view_position == view
    assert image.rendering == rendering
    middle = image.pixels[rows * 4 // 10 : rows * 6 // 10]
    spine = float(np.median(middle[:, columns * 45 // 100 : columns * 52 // 100]))
    lung = float(np.percentile(middle[:, columns * 15 // 100 : columns * 40 // 100], 25))
    assert spine > lung + 0.15
    assert float(np.percentile(image.pixels, 95) - np.percentile(image.pixels, 5)) > 0.3


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, folder):
    """What is no readable chest radiograph gets its reason code."""
    with pytest.raises(RejectedInputError) as caught:
        decode_file(folder / name)
    assert caught.value.reason_code == REFUSED[name]


def test_every_file(folder):
    """Each file of the collection renders where its folder is `chest`, and is refused elsewhere."""
    with (folder / "PROVENANCE.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    for name in names:
        if name.startswith("chest/"):
            decode_file(folder / name)
            continue
        with pytest.raises(RejectedInputError):
            decode_file(folder / name)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("reject/extremity_RG3_JLSN.dcm", 0.015), ("reject/extremity_RG3_JPLY.dcm", 0.05)],
)
def test_one_film_in_several_encodings(name, tolerance, folder):
    """The same film in JPEG 2000, JPEG-LS and 12-bit JPEG renders alike."""
    reference = open_source(folder / "reject/extremity_RG3_J2KI.dcm").render().pixels
    pixels = open_source(folder / name).render().pixels
    assert float(np.abs(pixels - reference).max()) <= tolerance
    assert float(np.abs(pixels - reference).mean()) <= 0.002
