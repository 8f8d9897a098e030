"""The grayscale pipeline of PS3.4 N.2, as one lookup table over all stored values of up to 16 bits.

The steps, in this order::

    stored values                  PS3.3 C.7.6.3.1
      -> Modality LUT or rescale   PS3.3 C.11.1
      -> VOI LUT or window         PS3.3 C.11.2
      -> [0, 1]                    by the nominal output range, not by what this image happens to hold
      -> polarity                  PS3.3 C.7.6.3.1.2
      -> padding is black          PS3.3 C.7.5.1.1.2; rows and columns of nothing else are cut off

Contrast must not depend on a lead marker: the range of the last table, not the image's own minimum and
maximum, becomes [0, 1].  Pixel Intensity Relationship and its Sign describe physics and change nothing
here (PS3.3 C.8.11.3.1.2).
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xray_batch.decode.attributes import Attributes, refusal
from xray_batch.decode.depth import find_used_range
from xray_batch.decode.limits import check_not_too_small
from xray_batch.decode.lookup import LookupTable, read_lookup_table
from xray_batch.decode.pixel_data import Cells, StoredValues
from xray_batch.decode.source import check_not_blank
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ImageWarning

#: Pixels looked up at once.  NumPy indexes with 64 bits; one small array of them, used again for each block,
#: stays in the cache: 4 ms for 2048 x 2048 pixels instead of 10.
_BLOCK: Final = 1 << 16

_POLARITY_OF_SHAPE: Final = {"IDENTITY": "MONOCHROME2", "INVERSE": "MONOCHROME1"}  #: PS3.3 C.8.11.3.1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Pixels for the eye, and how they came about."""

    pixels: npt.NDArray[np.float32]
    """Shape (rows, columns), values in [0, 1], larger is brighter (MONOCHROME2)."""
    name: str  #: `voi_lut`, `window:LINEAR`, `window:LINEAR_EXACT`, `window:SIGMOID`, `identity`
    bits: int  #: of a stored value, as it was decoded
    steps: tuple[str, ...]  #: what was done in turn and why, for people
    warnings: tuple[ImageWarning, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """What every possible stored value has become, and the nominal range it lies in."""

    values: npt.NDArray[np.float64]
    smallest: float
    largest: float

    @property
    def span(self) -> str:
        """The nominal range, for people."""
        return f"{self.smallest:g} to {self.largest:g}"


def render_grayscale(stored: StoredValues, attributes: Attributes) -> Rendering:
    """Apply Modality LUT, VOI LUT or window, and polarity.

    Parameters
    ----------
    stored
        Of a MONOCHROME1 or MONOCHROME2 image.
    attributes
        Of the same image.

    Raises
    ------
    RejectedInputError
        PIXEL_DATA, if a table or window is damaged; BLANK_IMAGE, if nothing can be seen; TOO_SMALL, if
        hardly anything but padding is there.
    """
    inputs = _stored_values(stored)
    padding = _find_padding(inputs.values, attributes, is_signed=stored.is_signed)
    codes, is_padding = _trim_padding(stored.codes, padding)
    sign = "signed" if stored.is_signed else "unsigned"
    steps, warnings = [f"stored: {stored.bits} bits, {sign}, {inputs.span}"], list(stored.warnings)
    if is_padding is not None:
        steps.append(f"padding: {_describe_padding(inputs.values[padding])} is shown black")
    if codes.shape != stored.codes.shape:
        check_not_too_small(*codes.shape)
        steps.append("padding: trimmed to {} rows and {} columns".format(*codes.shape))
        warnings.append(ImageWarning.PADDING_TRIMMED)
    if not has_tables(attributes):
        narrowed = _narrow(inputs, codes if is_padding is None else codes[~is_padding], stored)
        if narrowed is not inputs:
            steps.append(f"range: no window, and no pixel beyond {narrowed.span}: this range is shown")
            warnings.append(ImageWarning.BITS_UNUSED)
        inputs = narrowed
    display = _display(inputs, attributes)
    table = np.where(padding, np.float32(0), display.table)
    pixels = np.empty(codes.shape, np.float32)
    _look_up(table, codes, pixels)
    check_not_blank(pixels if is_padding is None else pixels[~is_padding])
    return Rendering(
        pixels=pixels,
        name=display.name,
        bits=stored.bits,
        steps=(*steps, *display.steps),
        warnings=(*warnings, *display.warnings),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Display:
    """What every possible stored value is shown as, and how that came about."""

    table: npt.NDArray[np.float32]  #: by code, values in [0, 1], larger is brighter
    name: str
    steps: tuple[str, ...]
    warnings: tuple[ImageWarning, ...]


def _display(inputs: _Values, attributes: Attributes) -> _Display:
    """Take all stored values through Modality LUT, VOI LUT and polarity at once."""
    modality, modality_step = apply_modality_lut(inputs, attributes)
    shown, name, voi_step, voi_warnings = apply_voi(modality, attributes)
    gray, polarity_step, polarity_warnings = _apply_polarity(
        (shown.values - shown.smallest) / (shown.largest - shown.smallest), attributes
    )
    if not np.isfinite(gray).all():
        raise RejectedInputError(
            ReasonCode.PIXEL_DATA,
            "(0028,1052) Rescale Intercept and (0028,1053) Rescale Slope give no finite numbers with these pixels; "
            "values that do are accepted.",
        )
    return _Display(
        table=np.clip(gray, 0.0, 1.0).astype(np.float32),
        name=name,
        steps=(modality_step, voi_step, polarity_step),
        warnings=voi_warnings + polarity_warnings,
    )


def has_tables(attributes: Attributes) -> bool:
    """Whether a table or a usable window says which stored values are shown."""
    return (
        attributes.first_item("ModalityLUTSequence") is not None
        or attributes.first_item("VOILUTSequence") is not None
        or _find_window(attributes) is not None
    )


def apply_modality_lut(inputs: _Values, attributes: Attributes) -> tuple[_Values, str]:
    """Apply Modality LUT Sequence, or Rescale Slope and Intercept, or nothing (PS3.3 C.11.1).

    The output range is 0 to 2ⁿ - 1 for a table of n bits, and what the inputs' range becomes for a rescale.
    Digital X-Ray images shall have slope 1 and intercept 0 (PS3.3 Table C.8-70); what is there is applied.
    Also returned: what was done, for people.
    """
    item = attributes.first_item("ModalityLUTSequence")
    if item is not None:
        table = read_lookup_table(item, has_negative_input=inputs.smallest < 0)
        return _looked_up(table, inputs), f"modality: Modality LUT Sequence, {table}"
    slope = _number(attributes, "RescaleSlope", 1.0)
    if slope == 0:
        raise refusal(ReasonCode.PIXEL_DATA, "RescaleSlope", "0", "any other number")
    intercept = _number(attributes, "RescaleIntercept", 0.0)
    ends = (slope * inputs.smallest + intercept, slope * inputs.largest + intercept)
    rescaled = _Values(values=slope * inputs.values + intercept, smallest=min(ends), largest=max(ends))
    is_identity = slope == 1 and intercept == 0
    return rescaled, "modality: none" if is_identity else f"modality: slope {slope:g}, intercept {intercept:g}"


def apply_voi(inputs: _Values, attributes: Attributes) -> tuple[_Values, str, str, tuple[ImageWarning, ...]]:
    """Apply the first VOI LUT or else the first window (PS3.3 C.11.2).

    Of several, the first is the one that the modality shows.  A damaged VOI LUT leaves the window, which is
    another view of the same film by the same sender.  A window without a positive width, as some
    systems write for "none", is no window.  Also returned: the name of what was applied, the same for
    people, and what they should know of it.
    """
    item, window = attributes.first_item("VOILUTSequence"), _find_window(attributes)
    warnings: tuple[ImageWarning, ...] = ()
    if item is not None:
        try:
            table = read_lookup_table(item, has_negative_input=inputs.smallest < 0)
        except RejectedInputError:
            if window is None:
                raise
            warnings = (ImageWarning.VOI_LUT_DAMAGED,)
        else:
            return _looked_up(table, inputs), "voi_lut", f"voi: VOI LUT Sequence, {table}", ()
    if window is None:
        return inputs, "identity", f"voi: none; all of {inputs.span} is shown", (ImageWarning.NO_WINDOW,)
    center, width, function = window
    values = _apply_window(inputs.values, center, width, function)
    step = f"voi: window {function}, center {center:g}, width {width:g}"
    if warnings:
        step += ", for a VOI LUT that cannot be read"
    return _Values(values=values, smallest=0.0, largest=1.0), f"window:{function}", step, warnings


def _find_window(attributes: Attributes) -> tuple[float, float, str] | None:
    """Return center, width and function of the first window; None where there is no usable one."""
    center, width = attributes.number("WindowCenter"), attributes.number("WindowWidth")
    function = (attributes.code("VOILUTFunction") or "LINEAR").replace(" ", "_")
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return center, width, function


def _apply_window(
    values: npt.NDArray[np.float64], center: float, width: float, function: str
) -> npt.NDArray[np.float64]:
    """Return values in [0, 1] by the formulas of PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2."""
    if function == "LINEAR":
        if width == 1:
            return (values > center - 0.5).astype(np.float64)
        return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if function == "SIGMOID":
        # Beyond +-700 the exponential overflows; the function is flat there.
        result: npt.NDArray[np.float64] = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
        return result
    raise refusal(ReasonCode.PIXEL_DATA, "VOILUTFunction", function, "LINEAR, LINEAR_EXACT or SIGMOID")


def _stored_values(stored: StoredValues) -> _Values:
    """Return the stored value of every code, negative from the sign bit on (PS3.5 section 8.1.1)."""
    values = np.arange(1 << stored.bits, dtype=np.float64)
    half = 1 << (stored.bits - 1)
    if stored.is_signed:
        values[half:] -= 1 << stored.bits
        return _Values(values=values, smallest=-half, largest=half - 1)
    return _Values(values=values, smallest=0, largest=(1 << stored.bits) - 1)


def _find_padding(values: npt.NDArray[np.float64], attributes: Attributes, *, is_signed: bool) -> npt.NDArray[np.bool_]:
    """Mark the stored values that are padding: one, or a range with both ends (PS3.3 C.7.5.1.1.2)."""
    ends: list[int] = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        raw = attributes.raw(keyword)
        if raw is not None and len(raw.value) >= 2:
            order = "<" if raw.is_little_endian else ">"
            ends.append(struct.unpack_from(f"{order}{'h' if is_signed else 'H'}", raw.value)[0])
        elif keyword == "PixelPaddingValue":
            return np.zeros(values.shape, np.bool_)
    first, last = min(ends), max(ends)
    return np.logical_and(values >= first, values <= last)


def _describe_padding(values: npt.NDArray[np.float64]) -> str:
    """Name the padding value, or both ends of its range."""
    return f"{values.min():g}" if values.size == 1 else f"{values.min():g} to {values.max():g}"


def _looked_up(table: LookupTable, inputs: _Values) -> _Values:
    """Return the table's outputs and their nominal range."""
    return _Values(values=table.apply(inputs.values), smallest=0.0, largest=float(table.largest))


def _number(attributes: Attributes, keyword: str, default: float) -> float:
    """Return a number, or what its absence means."""
    value = attributes.number(keyword)
    return default if value is None else value


def _narrow(inputs: _Values, codes: Cells, stored: StoredValues) -> _Values:
    """Return the range of the bits that pixels use, where that is much less than the stored bits have."""
    half = 1 << (stored.bits - 1)
    if stored.is_signed:
        codes = codes ^ codes.dtype.type(half)  # the sign bit turned round: sorts like the values
    offset = half if stored.is_signed else 0
    ends = find_used_range(int(codes.min()) - offset, int(codes.max()) - offset, stored.bits)
    return inputs if ends is None else _Values(values=inputs.values, smallest=ends[0], largest=ends[1])


def _apply_polarity(
    display: npt.NDArray[np.float64], attributes: Attributes
) -> tuple[npt.NDArray[np.float64], str, tuple[ImageWarning, ...]]:
    """Turn MONOCHROME1 round, after all other steps: its smallest value is shown white (PS3.3 C.7.6.3.1.2).

    Presentation LUT Shape says the same a second time; where the two differ, the attribute counts that is
    always there.
    """
    interpretation = attributes.code("PhotometricInterpretation")
    shape = attributes.code("PresentationLUTShape")
    is_conflict = _POLARITY_OF_SHAPE.get(shape or "", interpretation) != interpretation
    warnings = (ImageWarning.POLARITY_CONFLICT,) if is_conflict else ()
    remark = f", against Presentation LUT Shape {shape}" if is_conflict else ""
    if interpretation == "MONOCHROME1":
        return 1.0 - display, f"polarity: MONOCHROME1, turned round{remark}", warnings
    return display, f"polarity: {interpretation}, kept{remark}", warnings


def _trim_padding(codes: Cells, padding: npt.NDArray[np.bool_]) -> tuple[Cells, npt.NDArray[np.bool_] | None]:
    """Cut rows and columns of nothing but padding off the edges; also mark the padding inside, None for none.

    Padding fills a picture up to a rectangle; the picture is what is left (PS3.3 C.7.5.1.1.2).

    Raises
    ------
    RejectedInputError
        BLANK_IMAGE, if all pixels are padding.
    """
    if not padding.any():
        return codes, None
    is_padding = np.empty(codes.shape, np.bool_)
    _look_up(padding, codes, is_padding)
    if not is_padding.any():
        return codes, None
    rows, columns = np.flatnonzero(~is_padding.all(axis=1)), np.flatnonzero(~is_padding.all(axis=0))
    if not rows.size:
        raise RejectedInputError(ReasonCode.BLANK_IMAGE, "Every pixel is padding; an image with contrast is accepted.")
    inside = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    is_padding = is_padding[inside]
    return codes[inside], is_padding if is_padding.any() else None


def _look_up(table: npt.NDArray[Any], codes: Cells, out: npt.NDArray[Any]) -> None:
    """Write the table's entry for each code to `out`, of the shape of `codes`, block by block."""
    flat, result = np.ascontiguousarray(codes).reshape(-1), out.reshape(-1)
    index = np.empty(min(_BLOCK, flat.size), np.intp)
    for start in range(0, flat.size, _BLOCK):
        block = index[: flat.size - start]
        block[:] = flat[start : start + _BLOCK]
        # Every code is an index; `clip` only saves NumPy from looking for those that are not.
        np.take(table, block, out=result[start : start + _BLOCK], mode="clip")
