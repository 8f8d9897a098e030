"""An opened DICOM file: header, gate and rendering in the order in which the service asks for them."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from xray_batch.decode.attributes import quiet_pydicom
from xray_batch.decode.channels import to_single_channel
from xray_batch.decode.geometry import place_upright
from xray_batch.decode.grayscale import Rendering, render_grayscale
from xray_batch.decode.header import read_header
from xray_batch.decode.intended_use import GRAYSCALE_INTERPRETATIONS, check_intended_use, examine, find_warnings
from xray_batch.decode.limits import check_not_too_small
from xray_batch.decode.part10 import read_dicom_file
from xray_batch.decode.pixel_data import (
    PixelLayout,
    StoredValues,
    check_pixel_length,
    read_layout,
    read_stored_values,
    require_pixels,
)
from xray_batch.decode.reduced import read_reduced_values
from xray_batch.decode.source import Source, answer, check_not_blank
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import GateCheck, GrayscaleImage, ImageWarning


class DicomSource(Source):
    """An opened DICOM file.

    Parameters
    ----------
    content
        The whole file.

    Raises
    ------
    RejectedInputError
        UNREADABLE_FILE, TRUNCATED, TOO_LARGE or UNSUPPORTED_TRANSFER_SYNTAX.
    """

    def __init__(self, content: bytes) -> None:
        with quiet_pydicom():
            self._file = read_dicom_file(content)
            self.header = read_header(self._file)

    def check_intended_use(self) -> None:
        """Refuse a file that is cut off, no chest radiograph, or without usable pixels, in this order."""
        with quiet_pydicom():
            self._check_complete()
            check_intended_use(self._file)
            self._check_pixels()

    def examine(self) -> list[GateCheck]:
        """Ask every question of :meth:`check_intended_use`, those after the first refusal too."""
        with quiet_pydicom():
            return [
                answer("complete", "yes", lambda: "yes" if self._file.is_complete else "no", self._check_complete),
                *examine(self._file),
                answer("pixels", "one whole frame of usable size", self._describe_pixels, self._check_pixels),
            ]

    def _check_complete(self) -> None:
        if not self._file.is_complete:
            raise RejectedInputError(
                ReasonCode.TRUNCATED,
                "The DICOM file ends inside an element before its pixels; a complete file is accepted.",
            )

    def _check_pixels(self) -> None:
        """Refuse pixels that are missing, contradict their attributes, are too few or cut off; none is decoded."""
        require_pixels(self._file)
        layout = read_layout(self._file.attributes)
        check_not_too_small(layout.rows, layout.columns)
        check_pixel_length(self._file, layout)

    def _describe_pixels(self) -> str:
        layout = read_layout(self._file.attributes)
        return (
            f"{layout.rows} rows, {layout.columns} columns, {layout.bits_stored} bits of {layout.bits_allocated} "
            f"at High Bit {layout.high_bit}"
        )

    def decode(self) -> Callable[[], GrayscaleImage]:
        """Decode the one frame; what comes back shows it as a viewer would."""
        with quiet_pydicom():
            layout = read_layout(self._file.attributes)
            return partial(self._render, layout, read_stored_values(self._file, layout))

    def render_reduced(self, least_side: int) -> GrayscaleImage | None:
        """Render a small copy of a JPEG 2000 picture; None where only the whole one will do.

        Every refusal is left to the whole picture.
        """
        with quiet_pydicom(), contextlib.suppress(RejectedInputError):
            layout = read_layout(self._file.attributes)
            small = read_reduced_values(self._file, layout, least_side)
            if small is None:
                return None
            image = self._render(layout, small.stored)
            decoded = f"decoded at 1/{small.divisor}"
            rows, columns = small.stored.codes.shape
            return replace(
                image,
                rendering=f"{image.rendering}; {decoded}",
                steps=(f"{decoded}: {rows} rows and {columns} columns, approximately", *image.steps),
                warnings=(*image.warnings, ImageWarning.REDUCED_RESOLUTION),
            )
        return None

    def _render(self, layout: PixelLayout, stored: StoredValues) -> GrayscaleImage:
        with quiet_pydicom():
            rendering = self._render_frame(layout, stored)
            placed = place_upright(rendering.pixels, self._file.attributes)
            return GrayscaleImage(
                header=self.header,
                pixels=placed.pixels,
                rendering=rendering.name,
                bits=rendering.bits,
                steps=rendering.steps + placed.steps,
                warnings=find_warnings(self._file) + rendering.warnings + placed.warnings,
            )

    def _render_frame(self, layout: PixelLayout, stored: StoredValues) -> Rendering:
        """Render grayscale by the pipeline, and colour that is gray by its one channel."""
        if layout.photometric_interpretation in GRAYSCALE_INTERPRETATIONS:
            return render_grayscale(stored, self._file.attributes)
        if stored.bits != 8 * layout.cell_bytes or stored.is_signed:
            raise RejectedInputError(
                ReasonCode.COLOR_IMAGE,
                f"The colour image stores {stored.bits} of {layout.bits_allocated} bits; "
                "a colour image is accepted where it uses all of them, unsigned, and its channels are equal.",
            )
        # Windows and tables are for grayscale alone (PS3.3 C.11.2.1).
        gray = to_single_channel(stored.codes)
        pixels = gray.astype(np.float32) / np.float32(np.iinfo(gray.dtype).max)
        check_not_blank(pixels)
        steps = (f"stored: {stored.bits} bits, three equal colour channels", "voi: none in colour")
        return Rendering(
            pixels=pixels,
            name="identity",
            bits=stored.bits,
            steps=steps,
            warnings=(ImageWarning.GRAY_AS_COLOR,),
        )
