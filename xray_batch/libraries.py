"""The libraries that answers and figures come from: their versions, and how large ones are imported."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

#: Distributions whose version can change an answer.
COMPUTING: Final = ("imagecodecs", "numpy", "pillow", "pydicom", "torch")


def versions(*distributions: str) -> dict[str, str]:
    """Return the version of each distribution, in their order."""
    return {name: version(name) for name in distributions}


@contextmanager
def uncollected() -> Iterator[None]:
    """Import libraries without the garbage collector, which leaves alone from then on what there is.

    The hundreds of thousands of objects that libraries are made of stay for good; it would go through them again and
    again while they come, a sixth of the time that torch takes, and ever after.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
