"""Make the packaged sample studies of `xray-batch demo` again: `python tests/make_demo_samples.py FULLRES`.

FULLRES is a folder of original-resolution images of the Kermany data set (CC BY 4.0).  The patients are
invented: names, identifiers, dates and the UIDs' entropy come from this file.
"""

import sys
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
from dicom_factory import write_dicom
from PIL import Image
from pydicom import uid

SAMPLES = Path(__file__).resolve().parent.parent / "xray_batch" / "demo" / "samples"

#: Longest side, in pixels: enough to look at, small enough to package.
SIDE = 640


def film(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """Return one film, shape (rows, columns), 8 bits, made smaller with its aspect ratio kept."""
    image = Image.open(folder / name).convert("L")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def twelve_bits(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Return the film as a detector of 12 bits would store it: 0 to 4080."""
    return pixels.astype(np.uint16) << 4


def study(number: int, sex: str, age: str) -> dict[str, object]:
    """Return the attributes of an invented patient and study."""
    return {
        "PatientName": f"Demo^Patient{number:02}",
        "PatientID": f"DEMO-{number:03}",
        "PatientSex": sex,
        "PatientAge": age,
        "AccessionNumber": f"A{number:05}",
        "StudyDate": f"202601{number:02}",
        "StudyInstanceUID": uid.generate_uid(entropy_srcs=["xray-batch demo study", str(number)]),
        "SeriesInstanceUID": uid.generate_uid(entropy_srcs=["xray-batch demo series", str(number)]),
        "SOPInstanceUID": uid.generate_uid(entropy_srcs=["xray-batch demo instance", str(number)]),
        "Manufacturer": "xray-batch demo",
        "BurnedInAnnotation": "NO",
    }


def dx(view: str = "AP") -> dict[str, object]:
    """Return what makes an instance a Digital X-Ray Image for presentation."""
    return {
        "SOPClassUID": uid.DigitalXRayImageStorageForPresentation,
        "Modality": "DX",
        "PresentationIntentType": "FOR PRESENTATION",
        "PresentationLUTShape": "IDENTITY",
        "ViewPosition": view,
    }


def phantom() -> npt.NDArray[np.int16]:
    """Return a CT slice of a water cylinder in air, 256 x 256, Hounsfield units."""
    rows, columns = np.mgrid[:256, :256] - 127.5
    return np.where(np.hypot(rows, columns) < 100, 0, -1000).astype(np.int16)


def main(fullres: Path) -> None:
    """Write every sample."""
    SAMPLES.mkdir(exist_ok=True)
    normal = twelve_bits(film(fullres, "IM-0282-0001.jpeg"))
    write_dicom(SAMPLES / "01-dx-12-bit.dcm", normal, **dx(), **study(1, "F", "003Y"))
    bacterial = film(fullres, "person23_bacteria_78.jpeg")
    write_dicom(
        SAMPLES / "02-cr-monochrome1-jpeg-lossless.dcm",
        4095 - twelve_bits(bacterial),
        transfer_syntax=uid.JPEGLosslessSV1,
        **study(2, "M", "002Y") | {"PhotometricInterpretation": "MONOCHROME1", "ViewPosition": "AP"},
    )
    write_dicom(
        SAMPLES / "03-dx-jpeg-2000.dcm",
        twelve_bits(film(fullres, "person1411_bacteria_3601.jpeg")),
        transfer_syntax=uid.JPEG2000Lossless,
        **dx(),
        **study(3, "F", "018M"),
    )
    write_dicom(
        SAMPLES / "04-cr-windowed-jpeg-ls.dcm",
        twelve_bits(film(fullres, "NORMAL2-IM-0493-0001.jpeg")),
        transfer_syntax=uid.JPEGLSLossless,
        **study(4, "M", "005Y") | {"WindowCenter": "2040", "WindowWidth": "4081", "ViewPosition": "AP"},
    )
    write_dicom(
        SAMPLES / "05-dx-rle.dcm",
        film(fullres, "person419_virus_859.jpeg"),
        transfer_syntax=uid.RLELossless,
        **dx("PA"),
        **study(5, "F", "004Y"),
    )
    sixteen_bits = film(fullres, "NORMAL2-IM-0937-0001.jpeg").astype(np.uint16) * 257
    (SAMPLES / "06-16-bit.png").write_bytes(imagecodecs.png_encode(sixteen_bits, level=9))
    Image.fromarray(film(fullres, "person783_bacteria_2687.jpeg")).save(SAMPLES / "07-photo.jpeg", quality=92)
    lateral = dx("LL") | study(8, "M", "003Y")
    write_dicom(
        SAMPLES / "08-lateral-view.dcm",
        film(fullres, "person9_bacteria_41.jpeg"),
        transfer_syntax=uid.JPEGLSLossless,
        **lateral,
    )
    computed_tomography = {"SOPClassUID": uid.CTImageStorage, "Modality": "CT", "RescaleIntercept": "0"}
    write_dicom(SAMPLES / "09-ct-phantom.dcm", phantom(), **study(9, "O", "004Y") | computed_tomography)
    (SAMPLES / "10-not-an-image.dcm").write_text("A text file that somebody named .dcm.\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
