"""What the browser tests look at: films that the real pipeline has answered, some of them with hostile attributes."""

import datetime as dt
import shutil
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from installed_command import run_command
from pydicom import dcmread
from store_records import START, make_analysed, make_arrival, make_model

from xray_batch.demo import sample_files
from xray_batch.records import Outcome
from xray_batch.revisions import open_database
from xray_batch.store import Store

#: Set by a page that ran what it should have shown.
FLAG = "window.hacked"

IMAGE = f"\"><img src=x onerror='{FLAG}=1'>"
SCRIPT = f"<script>{FLAG}=1</script>"
TEMPLATE = "{{7*7}}${7*7}<%=7*7%>{% raise %}"
BACKWARDS = "abc\u202egnp.exe"
FORMULA = '=HYPERLINK("http://evil.example","x")'
URL = f"javascript:{FLAG}=1"

#: Attributes of one film each, by the name of its file; what is longer than DICOM allows is written all the same.
HOSTILE = {
    f"{IMAGE.replace('/', '-')}.dcm": {"PatientName": SCRIPT, "PatientID": IMAGE, "AccessionNumber": "'\"><b id=x>"},
    "<script>window.hacked=1<.dcm": {"PatientID": SCRIPT, "AccessionNumber": URL, "StudyDescription": SCRIPT},
    f"{TEMPLATE.replace('/', '-')}.dcm": {"PatientID": TEMPLATE, "AccessionNumber": "--><svg/onload=1>"},
    f"{BACKWARDS}.dcm": {"PatientID": BACKWARDS, "AccessionNumber": "&lt;i&gt;&amp;"},
    "=1+1.dcm": {"PatientID": FORMULA, "AccessionNumber": "@SUM(1+1)"},
    "long.dcm": {"PatientID": "W" * 64, "AccessionNumber": "9" * 16, "StudyDescription": "<i>" * 21},
    "view.dcm": {"PatientID": "VIEW", "ViewPosition": "<B ID=X>\"'&</B>"},
    "modality.dcm": {"PatientID": "MODALITY", "Modality": '"><IMG SRC=X>'},
    "part.dcm": {"PatientID": "PART", "BodyPartExamined": "<IMG SRC=X>"},
}

#: Rows that nobody classified, all older than the films: enough for three pages.
MADE_UP = 120


def make_home(home: Path) -> None:
    """Classify the packaged samples and hostile films in place, and add rows."""
    films = home / "films"
    shutil.copytree(sample_files(), films)
    for number, (name, attributes) in enumerate(HOSTILE.items()):
        _write_hostile(films / name, number, attributes)
    done = run_command("process", films, XRAY_BATCH_HOME=str(home))
    assert done.code == 0, done.err
    add_results(f"sqlite:///{home / 'results.sqlite3'}", MADE_UP)


def _write_hostile(path: Path, number: int, attributes: dict[str, str]) -> None:
    dataset = dcmread(sample_files() / "01-dx-12-bit.dcm")
    uid = f"1.2.826.0.1.3680043.8.498.77.{number}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of values that are none
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.StudyInstanceUID = f"{uid}.1"
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)


def add_results(database_url: str, count: int, *, prefix: str = "MADE-UP", moment: dt.datetime = START) -> None:
    """Store answers that nobody computed, a minute apart, from surely normal to surely pneumonia."""
    records = []
    for number in range(count):
        p_pneumonia = (number + 0.5) / count
        outcome = (
            Outcome.NORMAL if p_pneumonia < 0.25 else Outcome.PNEUMONIA if p_pneumonia > 0.75 else Outcome.INDETERMINATE
        )
        arrival = make_arrival(f"{prefix} {number}", source_name=f"{prefix.lower()}/{number:03}.dcm")
        finished = make_analysed(
            p_normal=1 - p_pneumonia,
            outcome=outcome,
            patient_id=f"{prefix}-{number:03}",
            study_instance_uid=f"1.2.3.{number}",
            sop_instance_uid=f"1.2.3.4.{prefix.count('-')}.{number}",
        )
        records.append((arrival, replace(finished, classified_at=moment + dt.timedelta(minutes=number))))
    with closing(Store(open_database(database_url))) as store:
        store.register_model(make_model())
        store.record_in_place(records, make_model())
