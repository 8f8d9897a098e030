"""Lookup tables of the Modality LUT and the VOI LUT modules (PS3.3 C.11.1.1, C.11.2.1.1)."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_batch.decode.attributes import Attributes, RawValue, refusal
from xray_batch.errors import ReasonCode

_CONTAINER_BITS = 16  #: what a wrong LUT Descriptor gives instead of the bits of its entries


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupTable:
    """One LUT: input `first_mapped` gives the first entry; what lies outside gives the nearest one."""

    first_mapped: int
    entries: npt.NDArray[np.float64]
    largest: int  #: end of the nominal output range, which begins at 0

    def __str__(self) -> str:
        return f"{len(self.entries)} entries from {self.first_mapped} on, 0 to {self.largest}"

    def apply(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the entries for `values`; a value between two inputs takes the nearest."""
        index = np.rint(values) - self.first_mapped
        result: npt.NDArray[np.float64] = self.entries[np.clip(index, 0, len(self.entries) - 1).astype(np.intp)]
        return result


def read_lookup_table(item: Attributes, *, has_negative_input: bool) -> LookupTable:
    """Read LUT Descriptor and LUT Data of one sequence item.

    Parameters
    ----------
    item
        Of Modality LUT Sequence or VOI LUT Sequence.
    has_negative_input
        Whether the values before the table can be negative: then so can the first mapped one.

    Raises
    ------
    RejectedInputError
        PIXEL_DATA, if the descriptor or the data is missing or they contradict each other.
    """
    descriptor = item.raw("LUTDescriptor")
    if descriptor is None or len(descriptor.value) != 6:
        raise refusal(ReasonCode.PIXEL_DATA, "LUTDescriptor", descriptor and "damaged", "three values")
    order = "<" if descriptor.is_little_endian else ">"
    # The first and the third value are unsigned whatever the VR says (PS3.3 C.11.1.1).
    is_signed = has_negative_input or descriptor.vr == "SS"
    count, first_mapped, bits = struct.unpack(f"{order}H{'h' if is_signed else 'H'}H", descriptor.value)
    entries = _read_entries(item.raw("LUTData"), count or 65536)
    highest = int(entries.max())
    if bits >= _CONTAINER_BITS or not 0 <= highest < 1 << bits:
        # Some CR systems declare the 16 bits of the container for entries of 12; the entries themselves
        # then say what full brightness is.  At least 8 bits, the fewest allowed.
        bits = max(8, highest.bit_length())
    return LookupTable(first_mapped=first_mapped, entries=entries.astype(np.float64), largest=(1 << bits) - 1)


def _read_entries(data: RawValue | None, count: int) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return LUT Data: 16-bit entries, or 8-bit ones packed two to a word.

    Which of the two it is follows from the length; the descriptor's bits are not reliable.
    """
    length = len(data.value) if data else 0
    if data is not None and length in (2 * count, 2 * count + 2):
        return np.frombuffer(data.value, "<u2" if data.is_little_endian else ">u2", count)
    if data is not None and length in (count, count + count % 2):
        packed = data.value
        if not data.is_little_endian and data.vr != "OB" and length % 2 == 0:
            packed = np.frombuffer(packed, "<u2").byteswap().tobytes()
        return np.frombuffer(packed, np.uint8, count)
    raise refusal(ReasonCode.PIXEL_DATA, "LUTData", f"{length} bytes", f"{count} entries of 8 or 16 bits")
