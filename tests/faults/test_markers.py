"""No word of a patient or of a file's name leaves the database: markers in every place where one can be, and faults."""

import io
import os
import re
import shutil
import signal
import time
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

from dicom_factory import chest_dataset, raw_element, save, write_dicom
from engines import on_postgresql
from fault_drops import MARKER
from film_encodings import png_chunk
from health_client import ask
from installed_command import make_films, run_command
from PIL import Image

#: As a name of a patient comes into logs: whole, in part, as bytes, or escaped.
SIGNS = (MARKER, MARKER.lower(), MARKER[2:], MARKER.encode().hex(), MARKER.encode("utf-16-le").hex())

#: Attributes that hold a marker where it belongs.
TEXTS = (
    *("PatientName", "PatientID", "PatientComments", "PatientAddress", "OtherPatientIDs", "AccessionNumber"),
    *("StudyID", "StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments", "InstitutionName"),
    *("ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName", "StationName", "RequestedProcedureID"),
)

#: Attributes that decoding reads, and where a marker is wrong: tag and VR.
WRONG = {
    "SpecificCharacterSet": (0x0008, 0x0005, "CS"),
    "ImageType": (0x0008, 0x0008, "CS"),
    "SOPClassUID": (0x0008, 0x0016, "UI"),
    "SOPInstanceUID": (0x0008, 0x0018, "UI"),
    "StudyDate": (0x0008, 0x0020, "DA"),
    "Modality": (0x0008, 0x0060, "CS"),
    "PresentationIntentType": (0x0008, 0x0068, "CS"),
    "PatientAge": (0x0010, 0x1010, "AS"),
    "BodyPartExamined": (0x0018, 0x0015, "CS"),
    "ViewPosition": (0x0018, 0x5101, "CS"),
    "StudyInstanceUID": (0x0020, 0x000D, "UI"),
    "PatientOrientation": (0x0020, 0x0020, "CS"),
    "SamplesPerPixel": (0x0028, 0x0002, "US"),
    "PhotometricInterpretation": (0x0028, 0x0004, "CS"),
    "NumberOfFrames": (0x0028, 0x0008, "IS"),
    "Rows": (0x0028, 0x0010, "US"),
    "PixelSpacing": (0x0028, 0x0030, "DS"),
    "PixelAspectRatio": (0x0028, 0x0034, "IS"),
    "BitsStored": (0x0028, 0x0101, "US"),
    "PixelPaddingValue": (0x0028, 0x0120, "US"),
    "WindowCenter": (0x0028, 0x1050, "DS"),
    "RescaleIntercept": (0x0028, 0x1052, "DS"),
    "RescaleSlope": (0x0028, 0x1053, "DS"),
    "VOILUTFunction": (0x0028, 0x1056, "CS"),
    "PresentationLUTShape": (0x2050, 0x0020, "CS"),
}


def marked_films(folder: Path) -> list[Path]:
    """Make films and other files that have a marker in every place."""
    folder.mkdir()
    everywhere: dict[str, object] = dict.fromkeys(TEXTS, f"{MARKER}^X")
    whole = write_dicom(folder / f"{MARKER}^JOHN.dcm", **everywhere)
    content = whole.read_bytes()
    made = {"cut.dcm": content[:-3000], "cut in the header.dcm": content[:400]}
    for name, (group, number, vr) in WRONG.items():
        made[f"{name}.dcm"] = replaced(content, group, number, vr)
    private = raw_element(0x0009, 0x0010, "LO", MARKER.encode()) + raw_element(0x0009, 0x1001, "UN", MARKER.encode())
    at = content.index(b"\x10\x00\x10\x00PN", 132)
    made["private.dcm"] = content[:at] + private + content[at:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of the UID
        bare = save(folder / f"{MARKER}-no-pixels.dcm", chest_dataset(Rows=9, Columns=9, **everywhere)).read_bytes()
    made["syntax.dcm"] = content.replace(b"1.2.840.10008.1.2.1\0", (MARKER.encode() * 3)[:20], 1)
    (film,) = make_films(folder / "png", 1)
    png = film.read_bytes()
    made["film.png"] = png[:33] + png_chunk(b"tEXt", f"Author\0{MARKER}".encode()) + png[33:]
    made["half.png"] = made["film.png"][:-200]
    jpeg = io.BytesIO()
    Image.open(film).save(jpeg, format="jpeg", comment=MARKER)
    made["film.jpeg"] = jpeg.getvalue()
    made["half.jpeg"] = jpeg.getvalue()[:-500]
    made["text.dcm"] = f"{MARKER} is no image".encode()
    made["bare.dcm"] = bare + b"\0" * 3
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(f"{MARKER}/{MARKER}.dcm", content + b"\0\0")
        opened.writestr(f"{MARKER}.txt", MARKER)
    made["study.zip"] = archive.getvalue()
    paths = [whole, folder / f"{MARKER}-no-pixels.dcm"]
    for name, data in made.items():
        paths.append(folder / f"{MARKER}-{name}")
        paths[-1].write_bytes(data)
    return paths


def replaced(content: bytes, group: int, number: int, vr: str) -> bytes:
    """Put an element whose value is the marker in the place of one, or where it belongs."""
    tag = group.to_bytes(2, "little") + number.to_bytes(2, "little")
    element = raw_element(group, number, vr, (MARKER * 2).encode())
    found = re.search(re.escape(tag) + rb"[A-Z]{2}(..)", content[132:], re.DOTALL)
    if found:
        start, end = 132 + found.start(), 132 + found.end() + int.from_bytes(found[1], "little")
    else:
        # Before the pixels, which come last; a group out of order is one more thing that is wrong.
        start = end = content.rindex(b"\xe0\x7f\x10\x00OW")
    return content[:start] + element + content[end:]


def children_of(pid: int) -> list[int]:
    """Return the processes that a service has started, from any of its threads: its decode workers."""
    started = (path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for children in started for child in children]


@on_postgresql
def test_no_marker_is_told(service, tmp_path):
    """Not by the log, the state file, health, figures, `status` or `doctor`; decoders are killed meanwhile."""
    films = marked_films(tmp_path / "films")
    process = service.start(XRAY_BATCH_UNPACK_ZIP="true", XRAY_BATCH_LOG_LEVEL="debug")
    service.wait_until_ready()
    told: list[str] = []
    killed = 0

    def listen() -> None:
        told.extend(ask(service.home, path) for path in ("/metrics", "/livez", "/readyz"))
        with suppress(FileNotFoundError):
            told.append((service.home / "service.json").read_text())

    ward = service.inbox / f"ward {MARKER}"
    ward.mkdir()
    (ward / f"{MARKER}-link.png").symlink_to(films[0])
    for number, film in enumerate(films):
        shutil.copy(film, ward / film.name)
        if number % 9 == 4:
            for child in children_of(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                    killed += 1
            time.sleep(0.3)
            listen()
    service.wait_until_idle(len(films) + 2)
    listen()
    url = {"XRAY_BATCH_DATABASE_URL": service.database_url}
    for command in (["status"], ["status", "--format", "json"], ["doctor"]):
        done = run_command(*command, "--home", service.home, **url)
        assert done.code in (0, 1), done.err
        told += [done.out, done.err]
    assert service.stop() == 0
    told.append(service.log)
    assert service.accounting().lost == 0
    assert "Traceback" not in service.log
    assert killed
    (whole,) = [row for row in service.results() if str(row["source_name"]).endswith(films[0].name)]
    assert MARKER in str(whole["patient_id"])  # it was there to be told
    assert len({row["reason_code"] for row in service.results()}) > 5  # the markers were met in many ways
    for text in told:
        for sign in SIGNS:
            assert sign not in text
    assert not [path for path in (service.home.parent).iterdir() if path.name.startswith("core")]
