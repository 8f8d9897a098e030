"""The grayscale pipeline of PS3.4 N.2, as one lookup table over all stored values of up to 16 bits.

The steps, in this order::

    stored values                  PS3.3 C.7.6.3.1
      -> Modality LUT or rescale   PS3.3 C.11.1
      -> VOI LUT or window         PS3.3 C.11.2
      -> [0, 1]                    by the nominal output range, not by what this image happens to hold
      -> polarity                  PS3.3 C.7.6.3.1.2
      -> padding is black          PS3.3 C.7.5.1.1.2

Contrast must not depend on a lead marker: the range of the last table, not the image's own minimum and
maximum, becomes [0, 1].
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xray_batch.decode.attributes import Attributes, refusal
from xray_batch.decode.lookup import LookupTable, read_lookup_table
from xray_batch.decode.pixel_data import StoredValues
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ImageWarning

_BLOCK: Final = 1 << 20  #: pixels looked up at once: NumPy widens indices to 64 bits

_POLARITY_OF_SHAPE: Final = {"IDENTITY": "MONOCHROME2", "INVERSE": "MONOCHROME1"}  #: PS3.3 C.8.11.3.1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Pixels for the eye, and how they came about."""

    pixels: npt.NDArray[np.float32]
    """Shape (rows, columns), values in [0, 1], larger is brighter (MONOCHROME2)."""
    name: str  #: `voi_lut`, `window:LINEAR`, `window:LINEAR_EXACT`, `window:SIGMOID`, `identity`
    warnings: tuple[ImageWarning, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """What every possible stored value has become, and the nominal range it lies in."""

    values: npt.NDArray[np.float64]
    smallest: float
    largest: float


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
        PIXEL_DATA, if a table or window is damaged; BLANK_IMAGE, if all pixels show the same gray.
    """
    interpretation = attributes.code("PhotometricInterpretation")
    inputs = _stored_values(stored)
    padding = _find_padding(inputs.values, attributes, is_signed=stored.is_signed)
    shown, name = apply_voi(apply_modality_lut(inputs, attributes), attributes)
    display = (shown.values - shown.smallest) / (shown.largest - shown.smallest)
    if interpretation == "MONOCHROME1":
        display = 1.0 - display  # the smallest value is shown white, after all other steps
    display[padding] = 0.0
    if not np.isfinite(display).all():
        raise RejectedInputError(
            ReasonCode.PIXEL_DATA,
            "(0028,1052) Rescale Intercept and (0028,1053) Rescale Slope give no finite numbers with these pixels; "
            "values that do are accepted.",
        )
    table = np.clip(display, 0.0, 1.0).astype(np.float32)
    pixels = _look_up(table, padding, stored.codes)
    warnings = [ImageWarning.NO_WINDOW] if name == "identity" else []
    shape = attributes.code("PresentationLUTShape")
    if _POLARITY_OF_SHAPE.get(shape or "", interpretation) != interpretation:
        # The two say the same thing twice; where they differ, the one that is always there counts.
        warnings.append(ImageWarning.POLARITY_CONFLICT)
    return Rendering(pixels=pixels, name=name, warnings=tuple(warnings))


def apply_modality_lut(inputs: _Values, attributes: Attributes) -> _Values:
    """Apply Modality LUT Sequence, or Rescale Slope and Intercept, or nothing (PS3.3 C.11.1).

    The output range is 0 to 2ⁿ - 1 for a table of n bits, and what the inputs' range becomes for a rescale.
    """
    item = attributes.first_item("ModalityLUTSequence")
    if item is not None:
        table = read_lookup_table(item, has_negative_input=inputs.smallest < 0)
        return _looked_up(table, inputs)
    slope = _number(attributes, "RescaleSlope", 1.0)
    if slope == 0:
        raise refusal(ReasonCode.PIXEL_DATA, "RescaleSlope", "0", "any other number")
    intercept = _number(attributes, "RescaleIntercept", 0.0)
    ends = (slope * inputs.smallest + intercept, slope * inputs.largest + intercept)
    return _Values(values=slope * inputs.values + intercept, smallest=min(ends), largest=max(ends))


def apply_voi(inputs: _Values, attributes: Attributes) -> tuple[_Values, str]:
    """Apply the first VOI LUT or else the first window, and name what was applied (PS3.3 C.11.2).

    Of several, the first is the one that the modality shows.  A window without a positive width, as some
    systems write for "none", is no window.
    """
    item = attributes.first_item("VOILUTSequence")
    if item is not None:
        return _looked_up(read_lookup_table(item, has_negative_input=inputs.smallest < 0), inputs), "voi_lut"
    center, width = attributes.number("WindowCenter"), attributes.number("WindowWidth")
    function = (attributes.code("VOILUTFunction") or "LINEAR").replace(" ", "_")
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return inputs, "identity"
    values = _apply_window(inputs.values, center, width, function)
    return _Values(values=values, smallest=0.0, largest=1.0), f"window:{function}"


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


def _looked_up(table: LookupTable, inputs: _Values) -> _Values:
    """Return the table's outputs and their nominal range."""
    return _Values(values=table.apply(inputs.values), smallest=0.0, largest=float(table.largest))


def _number(attributes: Attributes, keyword: str, default: float) -> float:
    """Return a number, or what its absence means."""
    value = attributes.number(keyword)
    return default if value is None else value


def _look_up(
    table: npt.NDArray[np.float32],
    padding: npt.NDArray[np.bool_],
    codes: npt.NDArray[np.unsignedinteger[Any]],
) -> npt.NDArray[np.float32]:
    """Return the table's gray for each code, block by block.

    Raises
    ------
    RejectedInputError
        BLANK_IMAGE, if all pixels but padding show the same gray.
    """
    flat = np.ascontiguousarray(codes).reshape(-1)
    pixels = np.empty(flat.shape, np.float32)
    is_used = np.zeros(table.shape, np.bool_)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.intp)
        is_used[block] = True
        np.take(table, block, out=pixels[start : start + _BLOCK])
    grays = table[is_used & ~padding]
    if grays.size == 0 or grays.min() == grays.max():
        raise RejectedInputError(
            ReasonCode.BLANK_IMAGE, "Every pixel shows the same gray; an image with contrast is accepted."
        )
    return pixels.reshape(codes.shape)
