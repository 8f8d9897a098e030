"""Where model bundles lie, for whoever does not load one: nothing of torch is imported here."""

import errno
import hashlib
import stat
from pathlib import Path
from typing import Final

#: Bundles that the package carries; a folder each.
PACKAGED_BUNDLES: Final = Path(__file__).with_name("bundles")

MANIFEST_NAME: Final = "manifest.json"
MODEL_CARD_NAME: Final = "MODEL_CARD.md"


def bundle_folders(installed: Path) -> list[Path]:
    """List the folders of the packaged bundles and of those in `installed`, by name."""
    parents = [parent for parent in (PACKAGED_BUNDLES, installed) if parent.is_dir()]
    return sorted(folder for parent in parents for folder in parent.iterdir() if folder.is_dir())


def named_folder(name: str, installed: Path) -> Path | None:
    """Return the folder that a bundle's name means: a path, else an installed one, else a packaged one."""
    if "/" in name:
        return Path(name)
    return next((parent / name for parent in (installed, PACKAGED_BUNDLES) if (parent / name).is_dir()), None)


def folder_with_manifest(sha256: str, name: str, installed: Path) -> Path | None:
    """Return the folder of the bundle whose manifest has this SHA-256; None if it is not at hand.

    Parameters
    ----------
    name
        Of the configured bundle, which may lie anywhere.
    installed
        Folder of the installed bundles.
    """
    configured = named_folder(name, installed)
    folders = [*([] if configured is None else [configured]), *bundle_folders(installed)]
    return next((folder for folder in folders if _manifest_sha256(folder) == sha256), None)


def read_manifest(folder: Path) -> bytes:
    """Return the manifest of the bundle in a folder, as it is.

    Raises
    ------
    OSError
        If it cannot be read, or is no regular file: a pipe would be waited for.
    """
    path = folder / MANIFEST_NAME
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.read_bytes()


def _manifest_sha256(folder: Path) -> str | None:
    try:
        return hashlib.sha256(read_manifest(folder)).hexdigest()
    except OSError:
        return None
