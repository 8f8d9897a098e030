"""Everything that decoding can say about one file, the refusals with their values too."""

from dataclasses import dataclass
from pathlib import Path

from xray_batch.decode import open_source
from xray_batch.decode.codecs import TransferSyntax, name_transfer_syntax, transfer_syntaxes
from xray_batch.decode.memory import rejection_of
from xray_batch.errors import RejectedInputError
from xray_batch.records import GateCheck, GrayscaleImage, ImageHeader, Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What became of one file in the decode stage, step by step."""

    header: ImageHeader | None  #: None where the file could not be read that far
    transfer_syntax: TransferSyntax | None  #: None for PNG and JPEG, and where the file could not be read that far
    checks: tuple[GateCheck, ...]  #: every question of the input gate, in its order
    image: GrayscaleImage | None  #: None where the pixels cannot be shown; set for a refused file where they can
    rejection: Rejection | None  #: what the service would refuse the file for, at this stage


def inspect_file(path: Path, least_side: int | None = None) -> Inspection:
    """Decode one file as the service does, and go on after a refusal as far as that is possible.

    `least_side` is that of :meth:`Source.render`.

    Raises
    ------
    TransientError
        If the system could not read the file.
    """
    try:
        source = open_source(path)
    except (RejectedInputError, MemoryError) as error:
        return Inspection(header=None, transfer_syntax=None, checks=(), image=None, rejection=rejection_of(error))
    checks = tuple(source.examine())
    rejection = next((check.rejection for check in checks if check.rejection), None)
    image = None
    try:
        image = source.render(least_side)
    except (RejectedInputError, MemoryError) as error:
        rejection = rejection or rejection_of(error)
    return Inspection(
        header=source.header,
        transfer_syntax=_find_transfer_syntax(source.header.transfer_syntax_uid),
        checks=checks,
        image=image,
        rejection=rejection,
    )


def _find_transfer_syntax(uid: str | None) -> TransferSyntax | None:
    """Return what reads an encoding; one that is not read here has no decoder."""
    if uid is None:
        return None
    known = next((syntax for syntax in transfer_syntaxes() if syntax.uid == uid), None)
    return known or TransferSyntax(uid=uid, name=name_transfer_syntax(uid), decoder="none", is_available=False)
