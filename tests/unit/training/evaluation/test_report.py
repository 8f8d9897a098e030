"""The folder of a report: complete, self-contained, and safe to open."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from bundle_factory import copy_bundle, know_images
from installed_command import make_films
from made_up_predictions import members_of, predictions_of
from PIL import Image, ImageOps

from xray_batch import DISCLAIMER
from xray_batch.bundle import Bundle
from xray_batch.classify import Ensemble, describe_device
from xray_batch.cli.evaluate import print_summary
from xray_batch.decode import decode_file
from xray_batch.errors import TrainingDataError
from xray_batch.training.dataset import LabelledImage, fingerprint
from xray_batch.training.evaluation.decode_again import is_seen
from xray_batch.training.evaluation.facts import Curve, Report
from xray_batch.training.evaluation.figures import draw_figures
from xray_batch.training.evaluation.predictions_file import read_predictions
from xray_batch.training.evaluation.report import ReportOrder, make_report
from xray_batch.training.seen import training_hashes

LABELS = ("normal", "bacterial_pneumonia", "viral_pneumonia")


@pytest.fixture(scope="module")
def bundle(bundle_folder):
    """Open the small bundle."""
    return Bundle(bundle_folder)


@pytest.fixture(scope="module")
def ensemble(bundle):
    """Load it on the CPU."""
    return Ensemble(bundle, device=torch.device("cpu"), dtype=torch.float32, batch_size=16)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """Return predictions of 36 films, of which the last is named to do harm and is very wrong."""
    paths = make_films(tmp_path_factory.mktemp("films"), 36)
    hostile = paths[-1].rename(paths[-1].with_name("<script>alert(1)<&script>.png"))
    images = [
        LabelledImage(path=path, label=LABELS[number % 3], patient_id=f"P{number}", source="<b>ward</b>")
        for number, path in enumerate([*paths[:-1], hostile])
    ]
    p = np.random.default_rng(0).uniform(0.2, 0.8, 36).tolist()
    return predictions_of(images, members_of([*p[:-1], 0.001]))


def order(out, **others):
    """Order a report of few samples and few stress films."""
    facts = {"data": "films.csv", "predictions": "made up", "command": "xray-batch evaluate", "resamples": 50}
    return ReportOrder(out=out, **(facts | {"stress_films": 2, "top_losses": 3} | others))


def silent(description, total):
    """Show no progress."""
    return lambda films: None


@pytest.fixture(scope="module")
def folder(predictions, bundle, ensemble, tmp_path_factory):
    """Make one report."""
    out = tmp_path_factory.mktemp("reports") / "deep" / "report"
    make_report(order(out), predictions, bundle, ensemble, task=silent)
    return out


class Page(HTMLParser):
    """Reads a page: its tags, its links and sources, its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Keep the tag and what it refers to."""
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        """Keep the text."""
        self.text += data


@pytest.fixture(scope="module")
def page(folder):
    """Read its page."""
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_refers_to_nothing_outside(folder, page):
    """Every picture is in the page, and there is no script, link, font or style sheet to fetch."""
    pictures = len(list((folder / "figures").glob("*.png")))
    assert pictures == page.tags.count("img") == len(page.references)
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(page.tags)
    source = (folder / "report.html").read_text(encoding="utf-8")
    assert "http://" not in source
    assert "https://" not in source
    assert not re.search(r"@import|url\(", source)
    assert "default-src 'none'" in source


def test_names_are_text(page):
    """A file or source that is named like markup is shown as it is named."""
    assert "<script>alert(1)<&script>.png" in page.text
    assert "<b>ward</b>" in page.text


def test_the_page_says_what_it_must(page, bundle):
    """Disclaimer, bundle and its hash, whose thresholds, and the intervals' origin are on the page."""
    text = " ".join(page.text.split())
    assert DISCLAIMER in text
    assert bundle.manifest.model_id in text
    assert bundle.sha256 in text
    assert "this evaluation fitted nothing. On films that they were chosen on" in text
    assert "50 samples of the patients" in text
    assert "where the model is sensitive, not where disease is" in text
    assert "Under 30 films, or 10 patients with such films, a figure is not given" in text
    assert "A figure is not given where under 10 patients have films of the kind that it takes" in text


def test_report_json(folder, predictions, bundle):
    """The JSON file is a whole report: it says what was measured, on what, with what."""
    report = Report.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))
    assert report.disclaimer == DISCLAIMER
    assert report.pneumonia.films == 36
    assert report.provenance.model_sha256 == bundle.sha256
    assert report.provenance.data_sha256 == fingerprint([film.image for film in predictions.films])
    assert report.provenance.libraries.keys() >= {"xray-batch", "torch", "numpy", "imagecodecs", "matplotlib"}
    assert report.provenance.device == describe_device(torch.device("cpu"))
    assert report.provenance.device.startswith("cpu ")
    assert report.provenance.precision == "float32"
    assert (report.provenance.command, report.provenance.resamples) == ("xray-batch evaluate", 50)


def test_figures_on_the_page_are_those_of_the_json(folder, page):
    """The numbers that people read are the numbers that programs read."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for figure in ("auroc", "brier_score", "calibration_slope"):
        estimate = report["pneumonia"][figure]
        assert f"{estimate['value']:.3f}" in page.text
        assert f"{estimate['low']:.3f} - {estimate['high']:.3f}" in page.text


def test_the_most_wrong_come_first(folder):
    """Losses fall, the worst is the film that was called normal for certain, and each has its two pictures."""
    report = Report.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))
    losses = [case.loss for case in report.top_losses]
    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)
    worst = report.top_losses[0]
    assert worst.file.endswith("<script>alert(1)<&script>.png")
    assert worst.loss == pytest.approx(-np.log(worst.p_pneumonia), rel=1e-6)
    for case in report.top_losses:
        film, heat = (np.asarray(Image.open(folder / name)) for name in (case.picture, case.heat_picture))
        assert film.shape == heat.shape
        assert not np.ptp(film[:-20], axis=2).any()
        assert np.ptp(heat[:-20], axis=2).max() > 30


def test_drawings(folder):
    """Every drawing is there and none is an empty sheet."""
    names = {path.stem for path in (folder / "figures").glob("*.png") if not path.stem.startswith("loss")}
    assert names == {
        *("probabilities", "confusion", "roc", "precision-recall", "reliability", "decision-curve"),
        *("findings", "stress", "stress-films"),
    }
    for name in names:
        picture = np.asarray(Image.open(folder / "figures" / f"{name}.png").convert("L"))
        middle = picture[picture.shape[0] // 8 : -picture.shape[0] // 8]
        assert (middle < 200).mean() > 0.005, name


def test_operating_points_are_on_the_decision_curve(folder):
    """Their markers lie at zero, within the axes though every net benefit is far above it."""
    report = Report.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))
    high = Curve(x=(0.1, 0.9), y=(0.6, 0.6), low=(0.5, 0.5), high=(0.7, 0.7))
    curves = report.curves.model_copy(update={"net_benefit": high, "net_benefit_treat_all": high})
    (axes,) = draw_figures(report.model_copy(update={"curves": curves}), None)["decision-curve"].axes
    assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]


def test_the_stresses_are_shown(folder):
    """The film is drawn under every change: the drawing is mostly gray, and not white."""
    picture = np.asarray(Image.open(folder / "figures" / "stress-films.png").convert("L"))
    assert (picture < 250).mean() > 0.4


def test_patient_data_is_not_for_everybody(folder):
    """Others than owner and group can read nothing of it."""
    assert not [path for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o007]


def test_a_report_from_its_own_predictions(folder, bundle, ensemble, tmp_path):
    """The predictions that lie beside a report make the same report again."""
    read = read_predictions(folder / "predictions.csv", bundle.manifest)
    make_report(order(tmp_path / "again"), read, bundle, ensemble, task=silent)
    first, again = (
        Report.model_validate_json((path / "report.json").read_text(encoding="utf-8"))
        for path in (folder, tmp_path / "again")
    )
    assert again.model_copy(update={"provenance": first.provenance}) == first


def test_a_smaller_report_replaces_a_larger(predictions, bundle, ensemble, tmp_path):
    """No picture of an earlier report stays beside a later one; what else lies in the folder does."""
    make_report(order(tmp_path, stress_films=0, top_losses=4), predictions, bundle, ensemble, task=silent)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    foreign = [tmp_path / "figures" / name for name in ("holiday.png", "loss-of-signal.png")]
    for path in foreign:
        path.write_bytes(b"mine")
    (tmp_path / "figures" / "findings.png").write_bytes(b"of an earlier report")
    report = make_report(order(tmp_path, stress_films=0, top_losses=1), predictions, bundle, ensemble, task=silent)
    assert [path.read_bytes() for path in foreign] == [b"mine"] * 2
    foreign[1].unlink()
    assert {path.name for path in (tmp_path / "figures").glob("loss*")} == {"loss-01.png", "loss-01-heat.png"}
    assert (tmp_path / "figures" / "findings.png").read_bytes() != b"of an earlier report"
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert report.stress is None
    assert "stress set" not in {missing.figure for missing in report.not_measured}


def test_films_that_are_gone(predictions, bundle, ensemble, tmp_path):
    """Without the files there are all figures but those that need the pictures, and the page says so."""
    films = tuple(
        replace(film, image=replace(film.image, path=tmp_path / film.image.path.name)) for film in predictions.films
    )
    gone = replace(predictions, films=films)
    report = make_report(order(tmp_path / "report"), gone, bundle, ensemble, task=silent)
    assert report.pneumonia.auroc is not None
    assert report.stress is None
    assert "stress set" in {missing.figure for missing in report.not_measured}
    assert {case.picture for case in report.top_losses} == {None}
    assert report.provenance.data_sha256 is None
    text = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8")).text
    assert "The file cannot be read any more" in text


def test_a_film_that_cannot_be_read_any_more(predictions, bundle, ensemble, tmp_path):
    """One file that exists and cannot be read costs no report: its data are not identified, and the page says so."""
    locked = tmp_path / "locked.png"
    locked.symlink_to("/proc/self/mem")  # a regular file whose reading fails, for root too
    first, *others = predictions.films[:3]
    films = (replace(first, image=replace(first.image, path=locked)), *others)
    report = make_report(order(tmp_path / "report"), replace(predictions, films=films), bundle, ensemble, task=silent)
    assert report.stress.films == 2
    assert [case.picture is None for case in report.top_losses].count(True) == 1
    assert report.provenance.data_sha256 is None
    text = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8")).text
    assert "not known: a file cannot be read" in text


def test_films_without_finite_numbers(predictions, bundle, ensemble, tmp_path, monkeypatch):
    """Where the networks fail on a film that is changed or drawn, the rest is there, and the page says so."""

    def fail(inputs):
        raise FloatingPointError

    monkeypatch.setattr(ensemble, "examine_members", fail)
    monkeypatch.setattr(ensemble, "explain", fail)
    report = make_report(order(tmp_path), predictions, bundle, ensemble, task=silent)
    why = {missing.figure: missing.why for missing in report.not_measured}
    assert why["stress set"] == "the networks give no finite numbers for a film that was changed"
    assert {case.picture for case in report.top_losses} == {None}
    assert "or cannot be shown" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).text


def test_predictions_are_written_first(predictions, bundle, ensemble, tmp_path):
    """What is interrupted after the films were classified leaves what the members said."""

    def interrupt(description, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_report(order(tmp_path / "report"), predictions, bundle, ensemble, task=interrupt)
    read = read_predictions(tmp_path / "report" / "predictions.csv", bundle.manifest)
    assert len(read.films) == len(predictions.films)
    assert (tmp_path / "report" / "predictions.csv").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("label", ["normal", "pneumonia", "viral_pneumonia"])
def test_one_label(predictions, bundle, ensemble, tmp_path, label):
    """A list of one label has a report, with what can be measured and drawn."""
    films = tuple(replace(film, image=replace(film.image, label=label)) for film in predictions.films)
    alike = replace(predictions, films=films)
    report = make_report(order(tmp_path, top_losses=0), alike, bundle, ensemble, task=silent)
    assert report.pneumonia.auroc is None
    assert not (tmp_path / "figures" / "roc.png").exists()
    assert "there are no films" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    (axes,) = draw_figures(report, None)["confusion"].axes
    assert sum(text.get_text() == "0\nno films" for text in axes.texts) == 2


def test_predictions_of_another_bundle(predictions, bundle, ensemble, tmp_path):
    """What another bundle said is not measured at this one's thresholds; nothing is written."""
    other = replace(predictions, model_sha256="f" * 64)
    with pytest.raises(TrainingDataError, match="the predictions come from a bundle with manifest SHA-256 ffff"):
        make_report(order(tmp_path / "report"), other, bundle, ensemble, task=silent)
    assert not (tmp_path / "report").exists()


def test_films_of_the_training_are_counted(predictions, bundle, ensemble, tmp_path):
    """A report on films of the training says so at its top, also when it is made again from its predictions."""
    films = tuple(replace(film, seen=number < 5) for number, film in enumerate(predictions.films))
    known = replace(predictions, films=films)
    first = make_report(order(tmp_path / "first", stress_films=0), known, bundle, ensemble, task=silent)
    assert first.provenance.seen == 5
    text = Page((tmp_path / "first" / "report.html").read_text(encoding="utf-8")).text
    assert "5 of the measured films, or copies of them, are among those that the bundle was trained on" in text
    read = read_predictions(tmp_path / "first" / "predictions.csv", bundle.manifest)
    assert [film.seen for film in read.films] == [film.seen for film in films]


@pytest.mark.parametrize(("covid19", "seen"), [(False, 2), (True, 5)])
def test_films_of_the_training_that_are_not_measured(predictions, bundle, ensemble, tmp_path, capsys, covid19, seen):
    """COVID-19 films of the training flatter no figure unless that class is measured, and are not counted else."""
    films = tuple(
        replace(
            film,
            seen=number < 5,
            image=replace(film.image, label="covid19_pneumonia" if number < 3 else film.image.label),
        )
        for number, film in enumerate(predictions.films)
    )
    wanted = order(tmp_path, covid19=covid19, stress_films=0, top_losses=0)
    report = make_report(wanted, replace(predictions, films=films), bundle, ensemble, task=silent)
    assert report.provenance.seen == seen
    print_summary(report, tmp_path)
    assert f"{seen} of the measured films are in the training data" in capsys.readouterr().out


def test_films_of_the_training_under_out_of_fold_predictions(predictions, bundle_folder, ensemble, tmp_path, capsys):
    """Stress set and heat maps ask a bundle that may know films which the predictions are not about; that is said."""
    *known, other = predictions.films[:4]
    ImageOps.invert(Image.open(other.image.path)).save(tmp_path / "other.png")
    other = replace(other, image=replace(other.image, path=tmp_path / "other.png"))
    few = replace(predictions, films=(*known, other))
    assert {film.seen for film in few.films} == {None}
    knowing = know_images(copy_bundle(bundle_folder, tmp_path / "knowing"), [film.image for film in known])
    wanted = order(tmp_path / "report", stress_films=4, top_losses=4)
    report = make_report(wanted, few, Bundle(knowing), ensemble, task=silent)
    assert (report.provenance.seen, report.stress.films, report.stress.seen) == (None, 4, 3)
    unknown = {case.file for case in report.top_losses if not case.seen}
    assert unknown == {str(tmp_path / "other.png")}
    text = " ".join(Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8")).text.split())
    assert "3 of these films, or copies of them, are among those that they were trained on" in text
    assert text.count("The bundle, whose heat map it is, was trained on this film") == 3
    (axes,) = draw_figures(report, None)["stress"].axes
    assert "3 of them are in the training data" in axes.get_title(loc="left")
    print_summary(report, tmp_path / "report")
    assert "3 of the 4 films of the stress set are in the training data" in capsys.readouterr().out


def test_a_film_that_goes_away_while_it_is_compared(predictions, bundle_folder, bundle, tmp_path):
    """Whether a film was trained on is not known where its file is gone before its bytes are hashed."""
    film = predictions.films[0]
    image, spec = decode_file(film.image.path), bundle.manifest.input_spec
    known = training_hashes(Bundle(know_images(copy_bundle(bundle_folder, tmp_path / "knowing"), [film.image])))
    gone = replace(film, image=replace(film.image, path=tmp_path / "gone.png"))
    assert is_seen(film, image, known, spec) is True
    assert is_seen(gone, image, known, spec) is None


def test_films_that_may_be_of_the_training(folder, page):
    """Where the bundle does not know what it was trained on, the report says that, and claims nothing."""
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["provenance"]["seen"] is None
    assert "are among those that the bundle was trained on" not in page.text
    assert "not known" in page.text
