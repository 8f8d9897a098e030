"""One check and what it found."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from xray_batch.settings import Settings


class Level(enum.StrEnum):
    """How much what a check found matters."""

    OK = "ok"
    NOTE = "note"  #: Worth knowing, but everything works.
    PROBLEM = "problem"  #: Somebody should act before the service is relied on.


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `xray-batch doctor`."""

    subject: str
    level: Level
    text: str


#: Looks at one thing; an error that it raises is a problem.
Examiner: TypeAlias = Callable[[Settings], tuple[Level, str]]
