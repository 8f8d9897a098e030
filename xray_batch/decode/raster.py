"""PNG and JPEG files: one gray channel, whatever the file's own layout.

Pixel values are taken as display values (no LUT, no window): black is 0 and the largest code is 1.
An embedded gamma or ICC profile is not applied; radiographs exported to PNG or JPEG rarely carry a true one.
"""

import contextlib
import io
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from xray_batch.decode.channels import to_single_channel
from xray_batch.decode.codecs import PILLOW_ERRORS
from xray_batch.decode.codestream import check_jpeg_ends, find_uncommon_kind
from xray_batch.decode.depth import find_used_range
from xray_batch.decode.identify import PNG_SIGNATURE
from xray_batch.decode.jpeg_fill import check_not_filled
from xray_batch.decode.limits import MIN_SIDE, check_not_too_large, check_not_too_small
from xray_batch.decode.source import Source, answer, check_not_blank
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import GateCheck, GrayscaleImage, ImageHeader, ImageWarning, SourceFormat

#: Pillow modes read, and whether they hold three colour channels.
_MODES: Final = {
    "1": False,
    "L": False,
    "LA": False,
    "I": False,
    "I;16": False,
    "I;16B": False,
    "P": True,
    "PA": True,
    "RGB": True,
    "RGBA": True,
}

#: Chunks of one PNG; those of 8 kB, as libpng writes them, would make 512 MB.
_MOST_CHUNKS: Final = 1 << 16

#: What Pillow and libpng say of too few data.
_SHORT: Final = ("truncated", "Not enough image data")

#: What brings a picture upright, by its EXIF orientation (Exif 2.32, 4.6.4 A): shape (rows, columns) or turned.
_TO_UPRIGHT: Final[dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]]] = {
    2: lambda samples: samples[:, ::-1],
    3: lambda samples: samples[::-1, ::-1],
    4: lambda samples: samples[::-1],
    5: lambda samples: samples.T,
    6: lambda samples: samples.T[:, ::-1],
    7: lambda samples: samples.T[::-1, ::-1],
    8: lambda samples: samples.T[::-1],
}


class RasterSource(Source):
    """An opened PNG or JPEG file.

    Parameters
    ----------
    content
        The whole file.
    source_format
        PNG or JPEG, as its signature says.

    Raises
    ------
    RejectedInputError
        UNREADABLE_FILE, TRUNCATED or TOO_LARGE.
    """

    def __init__(self, content: bytes, source_format: SourceFormat) -> None:
        self.header = ImageHeader(source_format=source_format)
        self._content = content
        if source_format is SourceFormat.PNG:
            _check_png_chunks(content)
        else:
            check_jpeg_ends(content)
            _check_jpeg_kind(content)
        self._image = self._open(content)
        check_not_too_large(self._image.height, self._image.width)

    def check_intended_use(self) -> None:
        """Refuse colour spaces that no radiograph has, animations, and thumbnails."""
        self._check_color_space()
        self._check_single_picture()
        check_not_too_small(self._image.height, self._image.width)

    def examine(self) -> list[GateCheck]:
        """Ask every question of :meth:`check_intended_use`, those after the first refusal too."""
        rows, columns = self._image.height, self._image.width
        return [
            answer("color_space", ", ".join(_MODES), lambda: self._image.mode, self._check_color_space),
            answer("pictures", "1", self._count_pictures, self._check_single_picture),
            answer(
                "size",
                f"at least {MIN_SIDE} a side",
                lambda: f"{rows} rows, {columns} columns",
                lambda: check_not_too_small(rows, columns),
            ),
        ]

    def _check_color_space(self) -> None:
        if self._image.mode not in _MODES:
            raise RejectedInputError(
                ReasonCode.COLOR_IMAGE,
                f"The picture has the colour space {self._image.mode}; grayscale is accepted, "
                "and RGB with equal channels.",
            )

    def _count_pictures(self) -> int:
        """Count the frames of an animated PNG; the second picture of a JPEG is a preview."""
        is_png = self.header.source_format is SourceFormat.PNG
        return int(getattr(self._image, "n_frames", 1)) if is_png else 1

    def _check_single_picture(self) -> None:
        if self._count_pictures() > 1:
            raise RejectedInputError(
                ReasonCode.MULTI_FRAME, "The PNG file is an animation; a single picture is accepted."
            )

    def _open(self, content: bytes) -> Image.Image:
        """Read the header of a picture; nothing is decompressed yet."""
        with _reading(self.header.source_format):
            return Image.open(io.BytesIO(content), formats=[self.header.source_format.value.upper()])

    def decode(self) -> Callable[[], GrayscaleImage]:
        """Decode the picture; what comes back is one channel of it, EXIF orientation applied, without alpha."""
        self.check_intended_use()
        return partial(self._render, *self._read_samples())

    def _render(self, samples: npt.NDArray[Any], orientation: int, warnings: list[ImageWarning]) -> GrayscaleImage:
        warnings = list(warnings)
        steps = [f"stored: {8 * samples.dtype.itemsize} bits, mode {self._image.mode}"]
        if samples.ndim == 3 and samples.shape[2] < 3:
            samples = samples[..., 0]
        elif samples.ndim == 3:
            samples = to_single_channel(samples)
            steps.append("channels: equal, read as one")
            warnings.append(ImageWarning.GRAY_AS_COLOR)
        if orientation in _TO_UPRIGHT:
            samples = _TO_UPRIGHT[orientation](samples)
            steps.append(f"geometry: turned upright by EXIF orientation {orientation}")
        white = int(np.iinfo(samples.dtype).max)
        used = find_used_range(0, int(samples.max()), 8 * samples.dtype.itemsize)
        if used is not None:
            white = used[1]
            steps.append(f"range: no pixel beyond {white}: 0 to {white} is shown")
            warnings.append(ImageWarning.BITS_UNUSED)
        # One array, not two, of up to 400 MB.
        pixels = np.divide(np.ascontiguousarray(samples), np.float32(white), dtype=np.float32)
        check_not_blank(pixels)
        return GrayscaleImage(
            header=self.header,
            pixels=pixels,
            rendering="identity",
            bits=8 * samples.dtype.itemsize,
            steps=tuple(steps),
            warnings=tuple(warnings),
        )

    def _read_samples(self) -> tuple[npt.NDArray[Any], int, list[ImageWarning]]:
        """Return the picture as it lies in the file, its EXIF orientation, and what is not made use of."""
        # Opened anew: what Pillow decompresses goes when this ends, or before another decoder starts.
        image, warnings = self._open(self._content), []
        with _reading(self.header.source_format):
            if image.mode.endswith("A") or "transparency" in image.info:
                warnings.append(ImageWarning.ALPHA_IGNORED)
            if image.info.get("icc_profile"):
                warnings.append(ImageWarning.ICC_IGNORED)
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if _has_deep_channels(self._content):
                del image
                return imagecodecs.png_decode(self._content), orientation, warnings
            samples = _load(image)
            may_be_filled = self.header.source_format is SourceFormat.PNG and _may_be_filled(image)
            del image
            if self.header.source_format is SourceFormat.JPEG:
                check_not_filled(self._content, samples, 8, lambda stream: _load(self._open(stream)))
            elif may_be_filled:
                imagecodecs.png_decode(self._content)  # unlike Pillow, it raises where there are too few data
            return samples, orientation, warnings


def _load(image: Image.Image) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return the picture as it lies in the file: shape (rows, columns) if gray, else (rows, columns, channels).

    uint16 for a 16-bit gray PNG, else uint8 with 255 as white.
    """
    if image.mode in ("I", "I;16", "I;16B"):
        return np.asarray(image).astype(np.uint16)
    if _MODES[image.mode]:
        return np.asarray(image.convert("RGB"))
    return np.asarray(image.convert("LA" if image.mode == "LA" else "L"))


def _may_be_filled(image: Image.Image) -> bool:
    """Return whether a decoded PNG ends in zeros, as Pillow leaves what a file has too few data for.

    Of an interlaced one, zeros may be anywhere.
    """
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    return bool(image.info.get("interlace")) or not np.asarray(last_row).any()


def _has_deep_channels(content: bytes) -> bool:
    """Return whether this is a PNG with 16-bit alpha or colour channels, which Pillow would cut to 8 bits.

    Bit depth and colour type are at offsets 24 and 25 (PNG specification, 11.2.2); 0 is plain gray.
    """
    return content.startswith(PNG_SIGNATURE) and content[24] == 16 and content[25] != 0


def _check_png_chunks(content: bytes) -> None:
    """Walk all chunks: each complete and with its checksum, IEND last (PNG specification, 5.3), not too many.

    Pillow does not check the checksum of image data and reads a file without IEND.

    Raises
    ------
    RejectedInputError
        TRUNCATED or UNREADABLE_FILE.
    """
    offset, kind, count = len(PNG_SIGNATURE), b"", 0
    while kind != b"IEND":
        count += 1
        if count > _MOST_CHUNKS:
            raise RejectedInputError(
                ReasonCode.UNREADABLE_FILE, f"The PNG file has more than {_MOST_CHUNKS:,} chunks; it is not read."
            )
        length = int.from_bytes(content[offset : offset + 4], "big")
        kind = content[offset + 4 : offset + 8]
        end = offset + 12 + length
        if end > len(content):
            raise RejectedInputError(
                ReasonCode.TRUNCATED, "The PNG file ends before its IEND chunk; a complete one is accepted."
            )
        checksum = zlib.crc32(memoryview(content)[offset + 4 : end - 4])
        if checksum != int.from_bytes(content[end - 4 : end], "big"):
            raise RejectedInputError(ReasonCode.UNREADABLE_FILE, "A chunk of the PNG file does not match its checksum.")
        offset = end


def _check_jpeg_kind(content: bytes) -> None:
    """Refuse the whole and sound JPEG files that Pillow calls damaged: those of more than 8 bits, and JPEG-LS.

    Raises
    ------
    RejectedInputError
        UNREADABLE_FILE.
    """
    kind = find_uncommon_kind(content)
    if kind is not None:
        raise RejectedInputError(
            ReasonCode.UNREADABLE_FILE,
            f"The JPEG file {kind}; accepted: a JPEG file of 8 bits, a PNG file of up to 16, or this picture in DICOM.",
        )


@contextlib.contextmanager
def _reading(source_format: SourceFormat) -> Iterator[None]:
    """Turn what Pillow raises into a refusal, and silence its warnings: they may quote the file."""
    name = source_format.value.upper()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Image.DecompressionBombError as error:
        raise RejectedInputError(
            ReasonCode.TOO_LARGE, f"The {name} file asks for more pixels than are accepted."
        ) from error
    except PILLOW_ERRORS as error:
        is_short = isinstance(error, EOFError) or any(words in str(error) for words in _SHORT)
        raise RejectedInputError(
            ReasonCode.TRUNCATED if is_short else ReasonCode.UNREADABLE_FILE,
            f"The {name} file {'ends before its picture does' if is_short else 'is damaged'}.",
        ) from error
