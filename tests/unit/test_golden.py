"""The golden kit itself, and how a verdict comes about; real decoders are in the integration tests."""

import dataclasses
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden_encoders
import make_golden_kit
import numpy as np
import pytest
from golden_encoders import FILM, patient
from make_golden_kit import pictures, refusals, renderings
from PIL import Image
from pydicom import Dataset, dcmread

from xray_batch.bundle import Bundle
from xray_batch.decode import transfer_syntaxes
from xray_batch.decode.codecs import LOSSY_TRANSFER_SYNTAXES
from xray_batch.errors import ReasonCode
from xray_batch.golden import probability, rendering
from xray_batch.golden.kit import PACKAGED_KIT, GoldenFile, KitError, Verdict, read_kit
from xray_batch.pipeline.engine import Answered, Failure, Job
from xray_batch.pipeline.pool import Decoded
from xray_batch.pipeline.worker import Reply
from xray_batch.records import Finding, Finished, ImageHeader, Outcome, Prediction, Rejection, SourceFormat
from xray_batch.settings import Settings

KIT = read_kit()
FILES = KIT.files
FILMS = [golden for golden in FILES if golden.reason_code is None]
REFUSALS = [golden for golden in FILES if golden.reason_code is not None]
DICOM = [golden for golden in FILES if golden.transfer_syntax_uid]


class TestKit:
    """What is in the package."""

    def test_every_transfer_syntax_is_covered(self):
        """There is a golden film, named as such, for every transfer syntax that is read."""
        covered = Counter(film.transfer_syntax_uid for film in FILMS if film.file.startswith("syntax-"))
        assert covered == Counter(syntax.uid for syntax in transfer_syntaxes())

    def test_refusals_differ(self):
        """At least eight reasons have a file that must be refused for it."""
        assert len(REFUSALS) >= 8
        assert len({golden.reason_code for golden in REFUSALS}) == len(REFUSALS)

    def test_golden_json_names_the_files(self):
        """`golden.json` names exactly the files that are there, with their hashes."""
        folder = PACKAGED_KIT / "files"
        assert sorted(golden.file for golden in FILES) == sorted(path.name for path in folder.iterdir())
        for golden in FILES:
            assert hashlib.sha256((folder / golden.file).read_bytes()).hexdigest() == golden.sha256

    def test_kit_is_small(self):
        """All files together have less than 1.5 MB, none more than 40 kB."""
        sizes = [path.stat().st_size for path in PACKAGED_KIT.rglob("*") if path.suffix != ".py" and path.is_file()]
        assert sum(sizes) < 1_500_000
        assert max(sizes) < 40_000

    def test_lossless_means_exact(self):
        """Only 8 bits, rounding and lossy compression have a tolerance, and none more than 0.04."""
        for film in FILMS:
            assert film.tolerance is not None
            assert film.tolerance <= 0.04
            assert film.tolerance > 0 or film.p_tolerance == 0.001
            assert film.tolerance > 0 or film.transfer_syntax_uid not in LOSSY_TRANSFER_SYNTAXES

    def test_film_is_asymmetric(self):
        """The film is neither square nor like itself mirrored, turned round or inverted."""
        assert KIT.film.shape[0] != KIT.film.shape[1]
        for other in (KIT.film[:, ::-1], KIT.film[::-1], KIT.film[::-1, ::-1], 1 - KIT.film):
            assert np.abs(KIT.film - other).max() > 0.5

    def test_film_is_the_generators(self):
        """The film that is compared with is the one that the files were made of."""
        assert np.array_equal(KIT.film, (FILM / 4095).astype(np.float32))

    @pytest.mark.parametrize("golden", DICOM, ids=lambda golden: golden.file)
    def test_patient_is_invented(self, golden):
        """No attribute of a patient, person, institution or time is there but the invented ones."""
        content = KIT.path(golden).read_bytes()
        content = gzip.decompress(content) if golden.file.endswith(".gz") else content
        dataset = dcmread(io.BytesIO(content), stop_before_pixels=True)
        invented = Dataset()
        for keyword, value in patient(re.sub(r"\.dcm.*", "", golden.file)).items():
            setattr(invented, keyword, value)
        for element in dataset.iterall():
            identifies = element.VR in ("PN", "DA", "TM", "DT", "AS", "UI") and element.keyword != "SOPClassUID"
            if identifies or element.tag.group == 0x0010 or "Institution" in element.keyword or element.tag.is_private:
                assert str(element.value) == str(invented.get(element.keyword)), element

    def test_every_file_names_its_encoder(self):
        """Every file says who made it, with a version."""
        assert not [golden.file for golden in FILES if not re.search(r"\d+\.\d+", golden.encoder)]

    def test_encoders_are_independent(self):
        """JPEG, JPEG-LS, JPEG 2000 and RLE streams are by programs that are not the libraries that read them."""
        codecs = re.compile(r"1\.2\.840\.10008\.1\.2\.(4\.([5-9]\d)|5)")
        encoders = [
            film.encoder
            for film in FILMS
            if film.file.startswith("syntax-") and codecs.fullmatch(str(film.transfer_syntax_uid))
        ]
        assert len(encoders) == 11
        assert all(encoder.startswith(("DCMTK", "FFmpeg")) for encoder in encoders)


class TestGenerator:
    """`tests/make_golden_kit.py`, as far as it needs no program that is not here."""

    def test_is_deterministic(self, tmp_path):
        """Twice made, the files are the same byte for byte."""
        for make in (renderings, pictures, refusals):
            once, again = [[_bytes(tmp_path / entry.file, write) for entry, write in make()] for _ in range(2)]
            assert once == again

    def test_whole_kit(self, tmp_path, monkeypatch):
        """Where all encoders have the versions of the packaged kit, the packaged kit comes out."""
        try:
            here = {golden_encoders.by_dcmtk(), golden_encoders.by_openjph(), golden_encoders.by_ffmpeg()}
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("an encoder is missing: install the packages `dcmtk`, `openjph-tools` and `ffmpeg`")
        here |= {golden_encoders.PYDICOM, golden_encoders.PILLOW, golden_encoders.LIBJXL, golden_encoders.OPENJPEG}
        packaged = {golden.encoder for golden in FILES}
        if not all(any(name in encoder for encoder in packaged) for name in here):
            pytest.skip("the encoders here have other versions than those that made the packaged kit")
        make_golden_kit.main([str(tmp_path)])
        assert (tmp_path / "golden.json").read_bytes() == (PACKAGED_KIT / "golden.json").read_bytes()


def _bytes(path: Path, write: Any) -> bytes:
    write(path)
    return path.read_bytes()


class TestReading:
    """A kit that is not the packaged one proves nothing."""

    def test_damaged_list(self, tmp_path):
        """A `golden.json` that is damaged is an error that says what to do."""
        (tmp_path / "golden.json").write_text("{}")
        with pytest.raises(KitError, match="install the package again"):
            read_kit(tmp_path)

    def test_changed_film(self, tmp_path):
        """A film of other bytes is an error: every file would be compared with the wrong picture."""
        kit = tmp_path / "kit"
        shutil.copytree(PACKAGED_KIT, kit)
        Image.fromarray(FILM[::-1].copy()).save(kit / "film.png")
        with pytest.raises(KitError, match=r"film\.png is not the file of the kit"):
            read_kit(kit)

    def test_missing_film(self, tmp_path):
        """A film that is not there is an error, too."""
        (tmp_path / "golden.json").write_bytes((PACKAGED_KIT / "golden.json").read_bytes())
        with pytest.raises(KitError, match=r"film\.png cannot be read"):
            read_kit(tmp_path)

    def test_film_that_pillow_cannot_read(self, tmp_path):
        """A picture that Pillow cannot read is an error that names Pillow."""
        text = b"no picture"
        facts = json.loads((PACKAGED_KIT / "golden.json").read_bytes())
        facts["film"]["sha256"] = hashlib.sha256(text).hexdigest()
        (tmp_path / "golden.json").write_text(json.dumps(facts))
        (tmp_path / "film.png").write_bytes(text)
        with pytest.raises(KitError, match="cannot be read by Pillow"):
            read_kit(tmp_path)


FILM_FILE = next(golden for golden in FILMS if golden.tolerance == 0)
REFUSED_FILE = next(golden for golden in REFUSALS if golden.reason_code == ReasonCode.LATERAL_VIEW)


def read_as(syntax: str | None, **facts: Any) -> Reply:
    """Return the reply of a worker that read a file."""
    header = ImageHeader(source_format=SourceFormat.DICOM, transfer_syntax_uid=syntax)
    return Reply(**({"seconds": 0.0, "header": header, "rendering": "identity"} | facts))


def refused(reason_code: ReasonCode) -> Reply:
    """Return the reply of a worker that refused a file."""
    rejection = Rejection(reason_code=reason_code, reason="A sentence.")
    return Reply(seconds=0.0, rejection=rejection)


def judge(monkeypatch: pytest.MonkeyPatch, golden: GoldenFile, reply: Reply, pixels: Any) -> Verdict:
    """Return the verdict on one file of which a worker says `reply`."""

    class Pool:
        def __class_getitem__(cls, item: object) -> type:
            return cls

        def __init__(self, *arguments: object) -> None:
            self.jobs: list[GoldenFile] = []

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *arguments: object) -> None:
            pass

        def submit(self, job: GoldenFile, path: Path) -> None:
            self.jobs.append(job)

        def drain(self) -> Iterator[Decoded[GoldenFile]]:
            yield from (Decoded(job=job, reply=reply, pixels=pixels) for job in self.jobs)

    monkeypatch.setattr(rendering, "DecodePool", Pool)
    (verdict,) = rendering.check_renderings(dataclasses.replace(KIT, files=(golden,)), Settings())
    return verdict


def one_pixel(value: float) -> Any:
    """Return the film with another pixel at one place."""
    pixels = KIT.film.copy()
    pixels[7, 11] = value
    return pixels


class TestRendering:
    """What a worker's answer is worth."""

    SYNTAX = FILM_FILE.transfer_syntax_uid

    def test_the_film_passes(self, monkeypatch):
        """The film's own pixels pass, with a difference of 0 and the decoder named."""
        verdict = judge(monkeypatch, FILM_FILE, read_as(self.SYNTAX), KIT.film)
        assert verdict.passed
        assert (verdict.difference, verdict.decoder) == (0.0, "NumPy")

    @pytest.mark.parametrize(
        ("reply", "pixels", "problem"),
        [
            (read_as(SYNTAX), one_pixel(float(KIT.film[7, 11]) + 1 / 4095), "a pixel differs by 0.000244"),
            (read_as(SYNTAX), one_pixel(float("nan")), "a pixel differs by nan"),
            (read_as(SYNTAX), 1 - KIT.film, "a pixel differs by 1.0"),
            (read_as("1.2.840.10008.1.2.5"), KIT.film, "read as transfer syntax 1.2.840.10008.1.2.5"),
            (refused(ReasonCode.PIXEL_DATA), None, "refused as pixel_data: A sentence."),
            (Reply(seconds=0.0, failure="DecoderDiedError"), None, "decoding ended with DecoderDiedError"),
            (Reply(seconds=0.0), None, "decoding ended with None"),
        ],
        ids=["one step", "no number", "inverted", "other syntax", "refused", "died", "nothing"],
    )
    def test_a_film_fails(self, reply, pixels, problem, monkeypatch):
        """A film that is read in another way, or not, fails, and the verdict says how."""
        verdict = judge(monkeypatch, FILM_FILE, reply, pixels)
        assert not verdict.passed
        assert str(verdict.problem).startswith(problem)

    def test_the_right_refusal_passes(self, monkeypatch):
        """A file that is refused for its reason passes."""
        assert judge(monkeypatch, REFUSED_FILE, refused(ReasonCode.LATERAL_VIEW), None).passed

    @pytest.mark.parametrize(
        ("reply", "pixels", "problem"),
        [
            (refused(ReasonCode.BLANK_IMAGE), None, "refused as blank_image; it must be refused as lateral_view"),
            (read_as(SYNTAX), KIT.film, "accepted; it must be refused as lateral_view"),
            (Reply(seconds=0.0, failure="DecoderDiedError"), None, "decoding ended with DecoderDiedError"),
        ],
        ids=["other reason", "accepted", "died"],
    )
    def test_a_refusal_fails(self, reply, pixels, problem, monkeypatch):
        """A file that must be refused fails when it is accepted, refused for another reason, or kills its decoder."""
        assert judge(monkeypatch, REFUSED_FILE, reply, pixels).problem == problem

    def test_a_changed_file_is_not_decoded(self, monkeypatch, tmp_path):
        """A golden file of other bytes fails before any decoder sees it."""
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / FILM_FILE.file).write_bytes(b"changed")
        monkeypatch.setattr(rendering, "_decode", lambda kit, todo, settings: iter(todo))
        kit = dataclasses.replace(KIT, folder=tmp_path, files=(FILM_FILE,))
        (verdict,) = rendering.check_renderings(kit, Settings())
        assert str(verdict.problem).startswith(f"{FILM_FILE.file} is not the file of the kit")


def prediction(p_pneumonia: float) -> Prediction:
    """Return what an ensemble says."""
    return Prediction(
        outcome=Outcome.INDETERMINATE,
        probabilities={Finding.NORMAL: 1 - p_pneumonia, Finding.VIRAL_PNEUMONIA: p_pneumonia},
        disagreement=0.0,
        threshold_low=0.25,
        threshold_high=0.75,
        heat_in_thorax=None,
        member_probabilities={"resnet34": p_pneumonia, "resnet50": p_pneumonia},
        input_mean=0.5,
        input_std=0.25,
    )


def classify(
    monkeypatch: pytest.MonkeyPatch, answers: dict[GoldenFile | None, Prediction | Rejection | Failure]
) -> list[Verdict]:
    """Return the verdicts on films of which a pipeline says `answers`; that of None is of the film itself."""

    class FakePipeline:
        def __init__(self, bundle: Bundle, settings: Settings) -> None:
            assert (settings.precision, settings.decode, settings.age_policy) == ("float32", "exact", "flag")

        def __enter__(self) -> "FakePipeline":
            return self

        def __exit__(self, *arguments: object) -> None:
            pass

        def run(self, jobs: list[Job[GoldenFile | None]]) -> Iterator[list[Answered[GoldenFile | None]]]:
            for job in reversed(jobs):
                yield [Answered(job=job, result=_result(answers[job.context]))]

    monkeypatch.setattr(probability, "Pipeline", FakePipeline)
    rendered = [Verdict(golden=film, decoder="NumPy", difference=0.0) for film in answers if film]
    unrendered = Verdict(golden=REFUSED_FILE, decoder="NumPy")
    bundle: Any = None
    settings = Settings(decode="fast", age_policy="refuse")
    verdicts = probability.check_probabilities(KIT, [*rendered, unrendered], bundle, settings)
    assert verdicts.pop() == unrendered
    return verdicts


def _result(answer: Prediction | Rejection | Failure) -> Any:
    if isinstance(answer, Failure):
        return answer
    template = dict.fromkeys(field.name for field in dataclasses.fields(Finished))
    return Finished(**(template | {"answer": answer}))  # type: ignore[arg-type]


class TestProbability:
    """What the answers of the pipeline are worth."""

    FIRST, SECOND = FILMS[0], FILMS[1]
    UNLIKE = Rejection(reason_code=ReasonCode.OUT_OF_DISTRIBUTION, reason="A sentence.")

    def test_the_films_probability_passes(self, monkeypatch):
        """A film within 0.001 of the film's probability passes, one further away fails with both."""
        answers = {None: prediction(0.5), self.FIRST: prediction(0.5009), self.SECOND: prediction(0.4989)}
        first, second = classify(monkeypatch, answers)
        assert first.passed
        assert second.problem == "P(pneumonia) is 0.4989, of the film 0.5000; they may differ by 0.001"
        assert second.p_difference == pytest.approx(0.0011)

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (UNLIKE, "refused as out_of_distribution: A sentence."),
            (Failure(error="DecoderDiedError", transient=True), "not classified: DecoderDiedError"),
        ],
        ids=["refused", "failed"],
    )
    def test_a_film_without_probability_fails_alone(self, answer, problem, monkeypatch):
        """A film that the model refuses or cannot answer fails; the others get on."""
        answers = {None: prediction(0.5), self.FIRST: answer, self.SECOND: prediction(0.5)}
        first, second = classify(monkeypatch, answers)
        assert first.problem == problem
        assert second.passed

    def test_nothing_to_compare_with(self, monkeypatch):
        """Where the film itself has no probability, no file passes."""
        (verdict,) = classify(monkeypatch, {None: self.UNLIKE, self.FIRST: prediction(0.5)})
        assert str(verdict.problem).startswith("there is no probability to compare with")

    def test_the_first_problem_is_kept(self):
        """A film whose pixels are wrong is not blamed for its probability."""
        verdict = Verdict(golden=self.FIRST, decoder="NumPy").fail("pixels").fail("probability")
        assert verdict.problem == "pixels"
