"""File names: any bytes but the slash and NUL, given by people who know nothing of us."""

import os
import re
import uuid
from pathlib import Path

#: Bytes of one name on every file system in common use on Linux.
NAME_MAX = 255

_ESCAPE = re.compile(rb"\\x(5c|[89a-f][0-9a-f])")


def printable(name: str) -> str:
    r"""Return the name as text that any database and terminal encoding can hold.

    A name that is text comes back as it is.  In any other, bytes that are no UTF-8 become ``\xNN``, and so
    does the backslash.
    """
    raw = os.fsencode(name)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.replace(b"\\", rb"\x5c").decode("utf-8", "backslashreplace")


def meant_by(text: str) -> list[str]:
    """Return the names that :func:`printable` may have been given, the less likely one last."""
    unescaped = _ESCAPE.sub(lambda escape: bytes([int(escape[1], 16)]), os.fsencode(text))
    return list(dict.fromkeys([os.fsdecode(unescaped), text]))


def fits(name: str, reserved: int) -> bool:
    """Tell whether a name leaves `reserved` bytes for a suffix."""
    return len(os.fsencode(name)) + reserved <= NAME_MAX


def unique(name: str, arrival_id: uuid.UUID, reserved: int) -> str:
    """Return ``<arrival_id>-<name>``, cut at the front of `name` so that `reserved` bytes stay free."""
    room = NAME_MAX - reserved - len(f"{arrival_id}-")
    kept = os.fsencode(name)[-room:]
    if len(kept) == room:
        kept = kept.lstrip(bytes(range(0x80, 0xC0)))  # the rest of a character that was cut in two
    return f"{arrival_id}-{os.fsdecode(kept)}"


def free_choices(base: Path, name: str, arrival_id: uuid.UUID, reserved: int) -> list[Path]:
    """Return where below `base` a file of this relative name may go, best first.

    Its own name; else, where that is taken or too long, with the arrival id in front; else, where a folder
    cannot be made (a file has its name, or the path is too long), the same directly in `base`.
    """
    target = base / name
    prefixed = unique(target.name, arrival_id, reserved)
    choices = [target] if fits(target.name, reserved) else []
    return list(dict.fromkeys([*choices, target.parent / prefixed, base / prefixed]))
