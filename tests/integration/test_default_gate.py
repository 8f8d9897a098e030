"""The packaged gate on real films that it was not fitted to, and on the same films spoilt."""

import numpy as np
import pytest
import torch
from unseen_films import unseen_films

from xray_batch.bundle import PACKAGED_BUNDLES, Bundle
from xray_batch.classify import Ensemble
from xray_batch.decode import decode_file, open_source
from xray_batch.demo import sample_files
from xray_batch.errors import ReasonCode
from xray_batch.records import GrayscaleImage, ImageHeader, Rejection, SourceFormat
from xray_batch.standardize import prepare
from xray_batch.training.drawings import DRAWINGS, draw
from xray_batch.training.spoil import SPOILERS

HEADER = ImageHeader(source_format=SourceFormat.PNG)


@pytest.fixture(scope="module")
def bundle():
    """Open the packaged bundle."""
    return Bundle(PACKAGED_BUNDLES / "default")


@pytest.fixture(scope="module")
def ensemble(bundle):
    """Load the packaged bundle."""
    return Ensemble(bundle, device=torch.device("cpu"), dtype=torch.float32, batch_size=16)


@pytest.fixture(scope="module")
def films(bundle, shared_data):
    """Return 100 films that the packaged bundle was not trained on, adults among them."""
    held_out = unseen_films(bundle, shared_data)
    adults = [image for image in held_out if image.source != "kermany"][:40]
    children = [image for image in held_out if image.source == "kermany"][::9]
    return [decode_file(image.path).pixels for image in (adults + children)[:100]]


def judge(ensemble, pictures):
    """Return how many pictures are refused, and how many of the others are flagged."""
    spec = ensemble.manifest.input_spec
    images = [GrayscaleImage(header=HEADER, pixels=picture, rendering="identity") for picture in pictures]
    answers = ensemble.predict([prepare(image, spec) for image in images])
    refused = [answer for answer in answers if isinstance(answer, Rejection)]
    assert all(answer.reason_code == ReasonCode.OUT_OF_DISTRIBUTION for answer in refused)
    flagged = [answer for answer in answers if not isinstance(answer, Rejection) and answer.warnings]
    return len(refused), len(flagged)


def test_packaged_films_pass(ensemble):
    """No packaged sample film is refused, and one at most is flagged."""
    paths = [path for path in sorted(sample_files().iterdir()) if "01" <= path.name[:2] <= "07"]
    refused, flagged = judge(ensemble, [decode_file(path).pixels for path in paths])
    assert refused == 0
    assert flagged <= 1


def test_real_dicom_films_pass(ensemble, shared_data):
    """No real chest DICOM file of any vendor is refused for its picture, and one at most is flagged."""
    paths = sorted((shared_data / "dicom" / "chest").iterdir())
    refused, flagged = judge(ensemble, [decode_file(path).pixels for path in paths])
    assert refused == 0
    assert flagged <= 1


@pytest.mark.parametrize("name", ["hip_RG2_J2KI.dcm", "extremity_RG3_J2KI.dcm"])
def test_other_parts_of_the_body_are_found(name, ensemble, shared_data):
    """A real hip and a real tibia are refused or flagged by the picture alone."""
    pixels = open_source(shared_data / "dicom" / "reject" / name).render().pixels
    assert sum(judge(ensemble, [pixels])) == 1


def test_films_pass(ensemble, films):
    """At most 2 % of real films are refused, and at most 5 % are flagged."""
    refused, flagged = judge(ensemble, films)
    assert refused <= 2
    assert flagged <= 5


def test_spoilt_films(ensemble, films):
    """At least 95 % of spoilt films are refused or flagged, and nine tenths of each kind."""
    random = np.random.default_rng(11)
    caught = []
    for spoil in SPOILERS.values():
        pictures = [np.ascontiguousarray(spoil(film, random), dtype=np.float32) for film in films[::2]]
        caught.append(sum(judge(ensemble, pictures)) / len(pictures))
    assert min(caught) >= 0.9
    assert np.mean(caught) >= 0.95


def test_drawings(ensemble):
    """At least 95 % of drawings of anything else are refused or flagged."""
    random = np.random.default_rng(12)
    pictures = [draw(name, 224, random) for name in DRAWINGS for _ in range(4)]
    assert sum(judge(ensemble, pictures)) >= 0.95 * len(pictures)
