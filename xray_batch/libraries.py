"""Versions of the libraries that answers and figures come from."""

from importlib.metadata import version
from typing import Final

#: Distributions whose version can change an answer.
COMPUTING: Final = ("imagecodecs", "numpy", "pillow", "pydicom", "torch")


def versions(*distributions: str) -> dict[str, str]:
    """Return the version of each distribution, in their order."""
    return {name: version(name) for name in distributions}
