"""One film through every encoding, and the same answer: decode, standardize and classify as the service does.

The film is the packaged one of which the packaged bundle is least certain, so that a difference shows.
"""

import hashlib
import itertools
import shutil
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


#: Packaged films of which the packaged bundle is sure, one of each kind.
CLEAR = ("02-cr-monochrome1-jpeg-lossless.dcm", "04-cr-windowed-jpeg-ls.dcm")

#: How far the answer of a clear film may move when its values do; a borderline one moves further.
WINDOW_BOUND, MARKER_BOUND, SHIFT_BOUND = 0.05, 0.05, 0.1


@pytest.fixture(params=CLEAR)
def clear(request: pytest.FixtureRequest) -> Stored:
    """Return a film of which the packaged bundle is sure, 12 bits."""
    return np.rint(decode_file(sample_files() / request.param).pixels * WHITE).astype(np.uint16)


def check_near(answers: Answers, folder: Path, film: Stored, changed: list[Path], bound: float) -> None:
    """Assert that changed films get nearly the answer of the film itself."""
    reference, *others = (answers.read(path) for path in [write_dicom(folder / "plain", film), *changed])
    answers.learn([reference, *others])
    for path, other in zip(changed, others, strict=True):
        difference = abs(answers.p_pneumonia(other) - answers.p_pneumonia(reference))
        assert difference <= bound, path.name


def test_window_of_another_taste(clear: Stored, answers: Answers, tmp_path: Path) -> None:
    """A window that is narrower or wider by a fifth moves the answer of a clear film by little."""
    changed = [
        write_dicom(tmp_path / f"{width}", clear, WindowCenter="2048", WindowWidth=width) for width in ("3277", "4915")
    ]
    check_near(answers, tmp_path, clear, changed, WINDOW_BOUND)


def test_burned_marker(film: Stored, answers: Answers, tmp_path: Path) -> None:
    """A marker burned into any corner, black or white, moves even the answer of a borderline film by little."""
    side = film.shape[0] // 12
    ends = {"first": slice(8, 8 + side), "last": slice(-8 - side, -8)}
    changed = []
    for value, row, column in itertools.product((0, WHITE), ends, ends):
        marked = film.copy()
        marked[ends[row], ends[column]] = value
        changed.append(write_dicom(tmp_path / f"{value} in {row} rows and {column} columns", marked))
    check_near(answers, tmp_path, film, changed, MARKER_BOUND)


def test_shift(clear: Stored, answers: Answers, tmp_path: Path) -> None:
    """A shift by two percent in any direction moves the answer of a clear film by little; the edge is repeated."""
    down, right = round(0.02 * clear.shape[0]), round(0.02 * clear.shape[1])
    padded = np.pad(clear, ((down, down), (right, right)), mode="edge")
    changed = []
    for name, top, left in (("down", 0, right), ("up", 2 * down, right), ("right", down, 0), ("left", down, 2 * right)):
        moved = padded[top : top + clear.shape[0], left : left + clear.shape[1]]
        changed.append(write_dicom(tmp_path / name, moved))
    check_near(answers, tmp_path, clear, changed, SHIFT_BOUND)


@pytest.mark.parametrize(
    ("attributes", "reason_code"),
    [
        ({"ViewPosition": "LL"}, ReasonCode.LATERAL_VIEW),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, ReasonCode.LATERAL_VIEW),
        ({"PresentationIntentType": "FOR PROCESSING"}, ReasonCode.FOR_PROCESSING),
        (
            {"SOPClassUID": uid.DigitalXRayImageStorageForProcessing, "Modality": "DX"},
            ReasonCode.FOR_PROCESSING,
        ),
    ],
    ids=["lateral", "lateral by orientation", "for processing", "for processing by class"],
)
def test_refused(attributes: dict[str, object], reason_code: ReasonCode, film: Stored, tmp_path: Path) -> None:
    """The same film as what this product is not for gets a reason code and never an answer."""
    with pytest.raises(RejectedInputError) as caught:
        decode_file(write_dicom(tmp_path / "a.dcm", film, **attributes))
    assert caught.value.reason_code is reason_code


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_truncated(syntax: uid.UID, film: Stored, tmp_path: Path) -> None:
    """The same film cut off in its last rows gets a reason code and never an answer."""
    path = write_dicom(tmp_path / "a.dcm", film, transfer_syntax=syntax)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(RejectedInputError) as caught:
        decode_file(path)
    assert caught.value.reason_code is ReasonCode.TRUNCATED
