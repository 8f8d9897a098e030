"""One film through every encoding, and the same answer: decode, standardize and classify as the service does.

The film is the packaged one of which the packaged bundle is least certain, so that a difference shows.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dicom_factory import WHITE, write_dicom
from film_encodings import LOSSLESS, LOSSY, encodings
from pydicom import uid

from xray_batch.bundle import find_bundle
from xray_batch.classify import Ensemble
from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ModelInput
from xray_batch.standardize import prepare

Stored = npt.NDArray[np.uint16]

#: Names and bounds of all encodings; what they hold is that of the fixture `film`.
ENCODINGS = encodings(np.zeros((64, 64), np.uint16))


@pytest.fixture(scope="module")
def film() -> Stored:
    """Return a chest film of 12 bits, neither black nor white, so that both can be padding, of even sides."""
    pixels = decode_file(sample_files() / "05-dx-rle.dcm").pixels
    grain = np.random.default_rng(5).uniform(-8, 8, pixels.shape)
    stored = np.clip(np.rint(pixels * WHITE + grain), 1, WHITE - 1).astype(np.uint16)
    return stored[: stored.shape[0] // 2 * 2, : stored.shape[1] // 2 * 2]


class Answers:
    """The packaged ensemble on the CPU in float32; what it has answered once it knows."""

    def __init__(self) -> None:
        self._ensemble = Ensemble(
            find_bundle("default", Path("no-installed-bundles")),
            device=torch.device("cpu"),
            dtype=torch.float32,
            batch_size=32,
        )
        self._known: dict[str, float] = {}

    def read(self, path: Path) -> ModelInput:
        """Return a file as the ensemble sees it."""
        return prepare(decode_file(path), self._ensemble.manifest.input_spec)

    def learn(self, inputs: list[ModelInput]) -> None:
        """Classify all inputs that are new, in few batches."""
        new = {_key(each): each for each in inputs if _key(each) not in self._known}
        for key, answer in zip(new, self._ensemble.predict(list(new.values())), strict=True):
            probability = getattr(answer, "p_pneumonia", None)
            assert isinstance(probability, float), f"the film was refused: {answer}"
            self._known[key] = probability

    def p_pneumonia(self, model_input: ModelInput) -> float:
        """Return the probability of one input."""
        self.learn([model_input])
        return self._known[_key(model_input)]


def _key(model_input: ModelInput) -> str:
    return hashlib.sha256(model_input.pixels.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def answers() -> Answers:
    """Load the packaged bundle once."""
    return Answers()


@pytest.fixture(scope="module")
def reference(film: Stored, answers: Answers, tmp_path_factory: pytest.TempPathFactory) -> ModelInput:
    """Return the film as a plain DICOM file gives it."""
    return answers.read(write_dicom(tmp_path_factory.mktemp("plain") / "a.dcm", film))


@pytest.fixture(scope="module")
def inputs(
    film: Stored, answers: Answers, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ModelInput | Exception]:
    """Return the film from every encoding, already classified; what failed on the way is kept for its test."""
    folder = tmp_path_factory.mktemp("encodings")
    found: dict[str, ModelInput | Exception] = {}
    for number, (name, encoding) in enumerate(encodings(film).items()):
        if encoding.program is not None and shutil.which(encoding.program) is None:
            continue
        path = folder / f"{number}"
        try:
            encoding.write(path)
            found[name] = answers.read(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test of this encoding raises it
            found[name] = error
    answers.learn([each for each in found.values() if isinstance(each, ModelInput)])
    return found


def test_list_is_long() -> None:
    """At least 45 encodings keep all values, and at least 20 more are of 8 bits, lossy or resampled."""
    tolerances = [encoding.tolerance for encoding in ENCODINGS.values() if encoding.program is None]
    assert tolerances.count(LOSSLESS) >= 45
    assert tolerances.count(LOSSY) >= 20


@pytest.mark.parametrize("name", ENCODINGS)
def test_same_answer(
    name: str, inputs: dict[str, ModelInput | Exception], reference: ModelInput, answers: Answers
) -> None:
    """Every encoding of the film gets the answer of the plain file, within the bound of its kind."""
    program = ENCODINGS[name].program
    if name not in inputs:
        pytest.skip(f"no program {program}: install the Debian package `dcmtk`")
    found = inputs[name]
    if isinstance(found, Exception):
        raise found
    difference = abs(answers.p_pneumonia(found) - answers.p_pneumonia(reference))
    assert difference <= ENCODINGS[name].tolerance
