"""The grayscale pipeline of PS3.4 N.2 in the forms that headers give it: all of them show one picture.

The list is that of the correct readings that common libraries get wrong, among others; the tests of the
rendering and those of the answer go through it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from dicom_factory import WHITE, lut_sequence

IDENTITY = np.arange(WHITE + 1, dtype="<u2")  #: a LUT that changes nothing

#: Attributes that undo :func:`to_signed`.
UNSIGN = {"RescaleIntercept": "2048", "RescaleSlope": "1"}


def to_signed(stored: npt.NDArray[np.uint16]) -> npt.NDArray[np.int16]:
    """Return 12-bit values as signed ones."""
    return (stored.astype(np.int32) - 2048).astype(np.int16)


def bits_12(values: npt.NDArray[np.int16]) -> npt.NDArray[np.uint16]:
    """Return 12-bit two's complement without sign extension."""
    return values.view(np.uint16) & np.uint16(WHITE)


def grayscale_encodings(
    stored: npt.NDArray[np.uint16],
) -> dict[str, tuple[npt.NDArray[Any], dict[str, Any], str]]:
    """Return, by name: cells of Pixel Data, attributes, and the name of the rendering.

    Parameters
    ----------
    stored
        The picture, 12 bits; `stored / 4095` is what each of the encodings shows.
    """
    signed = to_signed(stored)
    return {
        "plain": (stored, {}, "identity"),
        "window": (stored, {"WindowCenter": "2048", "WindowWidth": "4096"}, "window:LINEAR"),
        "window_exact": (
            stored,
            {"WindowCenter": "2047.5", "WindowWidth": "4095", "VOILUTFunction": "LINEAR_EXACT"},
            "window:LINEAR_EXACT",
        ),
        "window_several": (
            stored,
            {"WindowCenter": ["2048", "100"], "WindowWidth": ["4096", "50"]},
            "window:LINEAR",
        ),
        "window_function_empty": (
            stored,
            {"WindowCenter": "2048", "WindowWidth": "4096", "VOILUTFunction": ""},
            "window:LINEAR",
        ),
        "window_function_in_other_letters": (
            stored,
            {"WindowCenter": "2047.5", "WindowWidth": "4095", "VOILUTFunction": "linear exact"},
            "window:LINEAR_EXACT",
        ),
        "window_width_zero": (
            stored,
            {"WindowCenter": "0", "WindowWidth": "0", "VOILUTFunction": "LINEAR_EXACT"},
            "identity",
        ),
        "window_width_below_one": (stored, {"WindowCenter": "10", "WindowWidth": "0.5"}, "identity"),
        "window_width_negative": (stored, {"WindowCenter": "10", "WindowWidth": "-5"}, "identity"),
        "window_center_alone": (stored, {"WindowCenter": "10"}, "identity"),
        "window_empty": (stored, {"WindowCenter": "", "WindowWidth": ""}, "identity"),
        "monochrome1": (WHITE - stored, {"PhotometricInterpretation": "MONOCHROME1"}, "identity"),
        "monochrome1_window": (
            WHITE - stored,
            {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": "2048", "WindowWidth": "4096"},
            "window:LINEAR",
        ),
        "monochrome1_inverse": (
            WHITE - stored,
            {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
            "identity",
        ),
        "monochrome2_identity": (stored, {"PresentationLUTShape": "IDENTITY"}, "identity"),
        "presentation_shape_empty": (stored, {"PresentationLUTShape": ""}, "identity"),
        "signed_rescale": (signed, UNSIGN, "identity"),
        "signed_alone": (signed, {}, "identity"),
        "signed_window": (
            signed,
            UNSIGN | {"WindowCenter": "2048", "WindowWidth": "4096"},
            "window:LINEAR",
        ),
        "signed_not_extended": (bits_12(signed), UNSIGN | {"PixelRepresentation": 1}, "identity"),
        "slope_2_intercept_-100": (
            stored,
            {
                "RescaleSlope": "2",
                "RescaleIntercept": "-100",
                "WindowCenter": "3995.5",
                "WindowWidth": "8191",
            },
            "window:LINEAR",
        ),
        "slope_2_no_window": (stored, {"RescaleSlope": "2", "RescaleIntercept": "-100"}, "identity"),
        "slope_-1": (WHITE - stored, {"RescaleSlope": "-1", "RescaleIntercept": "4095"}, "identity"),
        "slope_alone": (stored, {"RescaleSlope": "3"}, "identity"),
        "rescale_empty": (stored, {"RescaleSlope": "", "RescaleIntercept": ""}, "identity"),
        "high_bit_15": (stored << 4, {"HighBit": 15}, "identity"),
        "high_bit_15_signed": (signed << 4, UNSIGN | {"HighBit": 15}, "identity"),
        "overlay_in_unused_bits": (stored | 0xA000, {}, "identity"),
        "high_bit_absent": (stored, {"HighBit": None}, "identity"),
        "16_bits": (
            stored * 16,
            {"BitsStored": 16, "HighBit": 15, "WindowCenter": "32760.5", "WindowWidth": "65521"},
            "window:LINEAR",
        ),
        "16_bits_signed": (
            (stored.astype(np.int32) * 16 - 32768).astype(np.int16),
            {"BitsStored": 16, "HighBit": 15, "WindowCenter": "-7.5", "WindowWidth": "65521"},
            "window:LINEAR",
        ),
        "voi_lut": (stored, {"VOILUTSequence": lut_sequence(IDENTITY, count=4096)}, "voi_lut"),
        "voi_lut_as_us": (
            stored,
            {"VOILUTSequence": lut_sequence(IDENTITY, count=4096, data_vr="US")},
            "voi_lut",
        ),
        "voi_lut_declared_16_bits": (
            stored,
            {"VOILUTSequence": lut_sequence(IDENTITY, count=4096, bits=16)},
            "voi_lut",
        ),
        "voi_lut_before_window": (
            stored,
            {
                "VOILUTSequence": lut_sequence(IDENTITY, count=4096),
                "WindowCenter": "100",
                "WindowWidth": "10",
            },
            "voi_lut",
        ),
        "voi_lut_first_negative": (
            signed,
            {"VOILUTSequence": lut_sequence(IDENTITY, count=4096, first_mapped=-2048, descriptor_vr="SS")},
            "voi_lut",
        ),
        "voi_lut_first_negative_as_us": (
            signed,
            {"VOILUTSequence": lut_sequence(IDENTITY, count=4096, first_mapped=-2048)},
            "voi_lut",
        ),
        "voi_lut_first_above_32767": (
            stored + np.uint16(40000),
            {
                "BitsStored": 16,
                "HighBit": 15,
                "VOILUTSequence": lut_sequence(IDENTITY, count=4096, first_mapped=40000),
            },
            "voi_lut",
        ),
        "voi_lut_first_negative_after_rescale": (
            stored,
            {
                "RescaleSlope": "1",
                "RescaleIntercept": "-1000",
                "VOILUTSequence": lut_sequence(IDENTITY, count=4096, first_mapped=-1000),
            },
            "voi_lut",
        ),
        "voi_lut_after_float_rescale": (
            stored,
            {
                "RescaleSlope": "0.9999",
                "RescaleIntercept": "0.2",
                "VOILUTSequence": lut_sequence(IDENTITY, count=4096),
            },
            "voi_lut",
        ),
        "voi_lut_65536_entries": (
            stored * 16,
            {
                "BitsStored": 16,
                "HighBit": 15,
                "VOILUTSequence": lut_sequence(np.arange(65536, dtype="<u2") // 16, count=65536),
            },
            "voi_lut",
        ),
        "voi_lut_empty_sequence": (
            stored,
            {"VOILUTSequence": [], "WindowCenter": "2048", "WindowWidth": "4096"},
            "window:LINEAR",
        ),
        "modality_lut_16_bits": (
            stored,
            {
                "ModalityLUTSequence": lut_sequence(IDENTITY * 16, count=4096, bits=16),
                "WindowCenter": "32760.5",
                "WindowWidth": "65521",
            },
            "window:LINEAR",
        ),
        "modality_lut_12_bits": (
            stored,
            {"ModalityLUTSequence": lut_sequence(IDENTITY, count=4096)},
            "identity",
        ),
        "modality_lut_inverting": (
            WHITE - stored,
            {"ModalityLUTSequence": lut_sequence(IDENTITY[::-1].copy(), count=4096)},
            "identity",
        ),
        "modality_lut_first_negative": (
            stored,
            {
                "ModalityLUTSequence": lut_sequence(
                    np.concatenate([np.zeros(50, "<u2"), IDENTITY]),
                    count=4146,
                    first_mapped=-50,
                    descriptor_vr="SS",
                )
            },
            "identity",
        ),
        "one_frame": (stored, {"NumberOfFrames": "1"}, "identity"),
        "no_frames": (stored, {"NumberOfFrames": "0"}, "identity"),
        "samples_per_pixel_absent": (stored, {"SamplesPerPixel": None}, "identity"),
        "padding_range_limit_alone": (stored, {"PixelPaddingRangeLimit": 590}, "identity"),
        "padding_value_never_stored": (stored, {"PixelPaddingValue": 60000}, "identity"),
    }
