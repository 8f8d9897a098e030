"""`xray-batch calibrate` as a site uses it: from its own labelled films to an installed bundle."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from calibration_errors import expected_calibration_error
from installed_command import make_films, run_command
from PIL import Image
from unseen_films import unseen_films

from xray_batch.bundle import PACKAGED_BUNDLES, Bundle

#: Temperature of a bundle whose probabilities do not fit the site: far too unsure.
UNFIT = 3.0


def make_site(folder: Path, shared: Path, *, part: int, count: int = 52) -> dict[str, str]:
    """Make as many normal films as ones with pneumonia, of every second patient new to the bundle; labels by file."""
    films = [film for film in unseen_films(Bundle(PACKAGED_BUNDLES / "default"), shared) if film.source == "kermany"]
    patients = sorted({film.patient_id for film in films})[part::2]
    films = [film for film in films if film.patient_id in set(patients)]
    groups = ([film for film in films if (film.label == "normal") is normal] for normal in (True, False))
    chosen = [film for group in groups for film in group[:: len(group) // count][:count]]
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["file", "label", "patient_id", "source"])
        for film in chosen:
            pixels = np.asarray(Image.open(film.path).convert("L"), dtype=np.float32)
            name = f"{film.path.stem}.png"
            Image.fromarray(np.round((pixels - 128) * 0.7 + 128).astype(np.uint8)).save(folder / name)
            writer.writerow([name, "normal" if film.label == "normal" else "pneumonia", film.patient_id, "site"])
    return {f"{film.path.stem}.png": film.label for film in chosen}


def calibration_error(rows: list[dict[str, object]], labels: dict[str, str]) -> float:
    """Measure the calibration error of answers, by the labels of their files."""
    answered = [row for row in rows if row["outcome"] != "not_analysed"]
    positive = np.array([labels[Path(str(row["source_name"])).name] != "normal" for row in answered])
    return expected_calibration_error(positive, np.array([row["p_pneumonia"] for row in answered], dtype=np.float64))


def test_a_site_calibrates_installs_and_classifies(shared_data, tmp_path):
    """On other patients of the site the installed bundle's calibration error is less than half the old one's."""
    home, old = tmp_path / "home", tmp_path / "old"
    shutil.copytree(PACKAGED_BUNDLES / "default", old)
    facts = json.loads((old / "manifest.json").read_text(encoding="utf-8"))
    (old / "manifest.json").write_text(json.dumps(facts | {"temperature": UNFIT}), encoding="utf-8")
    make_site(tmp_path / "site", shared_data, part=0)
    labels = make_site(tmp_path / "others", shared_data, part=1, count=26)

    done = run_command(
        *("calibrate", "--labels", tmp_path / "site", "--out", tmp_path / "new", "--bundle", old),
        *("--version", "9.0.0", "--home", home),
    )
    assert done.code == 0, done.err
    name = f"{facts['id']}-9.0.0"
    assert "Research use only. Not a medical device." in done.out
    assert "measured on the very images that the new calibration was fitted to" in done.out
    assert f'bundle = "{name}"' in done.out

    shutil.copytree(tmp_path / "new", home / "bundles" / name)
    assert run_command("bundle", "verify", name, "--home", home).code == 0
    errors = []
    for bundle in (str(old), name):
        films = [path for path in (tmp_path / "others").iterdir() if path.suffix == ".png"]
        rows = run_command("process", *films, "--home", home, "--bundle", bundle, "--format", "json").rows
        errors.append(calibration_error(rows, labels))
    assert {row["model_id"] for row in rows} == {name}
    new = json.loads((tmp_path / "new" / "manifest.json").read_text(encoding="utf-8"))
    assert {row["threshold_high"] for row in rows if row["outcome"] != "not_analysed"} == {new["threshold_high"]}
    before, after = errors
    assert after < before / 2, errors


def test_the_json_object_has_both_calibrations(shared_data, tmp_path):
    """`--format json` gives one object with the old and the new facts, intervals, and cross-fitted figures."""
    make_site(tmp_path / "site", shared_data, part=0)
    done = run_command(
        *("calibrate", "--labels", tmp_path / "site" / "labels.csv", "--out", tmp_path / "new", "--home", tmp_path),
        *("--format", "json"),
    )
    assert done.code == 0, done.err
    (facts,) = done.rows
    packaged = json.loads((PACKAGED_BUNDLES / "default" / "manifest.json").read_text(encoding="utf-8"))
    new = json.loads((tmp_path / "new" / "manifest.json").read_text(encoding="utf-8"))
    assert facts["before"]["temperature"] == packaged["temperature"]
    assert facts["after"]["operating_points"] == new["operating_points"]
    assert facts["calibration"] == new["calibration"]
    assert (facts["set_aside"], facts["copies"]) == (0, 0)
    for figures in (facts["before"], facts["after"], facts["cross_fitted"]):
        error = figures["expected_calibration_error"]
        assert error["low"] <= error["value"] <= error["high"]
        assert set(figures["operating_points"]) == {"balanced", "high_sensitivity", "high_specificity"}
    change = facts["cross_fitted"]["log_loss_change"]
    assert change["low"] <= change["value"] <= change["high"]
    assert ("did not fall by more than chance" in facts["note"]) is (change["high"] >= 0)
    assert "Research use only" in facts["note"]


def test_a_small_sample_is_one_sentence_and_exit_1(tmp_path):
    """A sample that is too small is refused with what was found and what is needed; no bundle is made."""
    films = make_films(tmp_path / "films", 3)
    lines = ["file,label,patient_id,source", *(f"{path.name},normal,P1,site" for path in films)]
    (tmp_path / "films" / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    done = run_command(
        "calibrate", "--labels", tmp_path / "films", "--out", tmp_path / "new", "--home", tmp_path / "home"
    )
    assert done.code == 1
    assert done.err == (
        "xray-batch: the sample has 3 images of normal (1 patients) and 0 images of pneumonia (0 patients); "
        "needed are 50 images of each, and 30 patients\n"
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("version", "code", "sentence"),
    [("1.0", 2, "expected three numbers such as 1.2.0"), ("0.0.1", 78, "expected one above")],
)
def test_a_wrong_version(version, code, sentence, tmp_path):
    """A version that is none is wrong usage; one that is not above the old one is refused."""
    (tmp_path / "labels.csv").write_text("file,label,patient_id,source\n", encoding="utf-8")
    done = run_command(
        *("calibrate", "--labels", tmp_path, "--out", tmp_path / "new", "--home", tmp_path, "--version", version),
        COLUMNS="200",
    )
    assert done.code == code
    assert sentence in done.err
