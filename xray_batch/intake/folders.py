"""The folders of one installation."""

import os
from dataclasses import dataclass
from pathlib import Path

from xray_batch.errors import ConfigurationError

#: Senders share a group with the service; set-group-id hands that group on to what they create.
INBOX_MODE = 0o2770
#: Everything else belongs to the service; its group may look.
FOLDER_MODE = 0o750
#: Of what is filed away, where the service may change it.
FILE_MODE = 0o640


@dataclass(frozen=True, slots=True)
class Folders:
    """Where files are, in each state; all of them on one file system."""

    home: Path

    @property
    def inbox(self) -> Path:
        """People and routers drop files here, in subfolders of any depth."""
        return self.home / "inbox"

    @property
    def spool(self) -> Path:
        """Private: claimed, not yet finished."""
        return self.home / "spool"

    @property
    def processed(self) -> Path:
        """Originals that ended with a result, by day of arrival (UTC)."""
        return self.home / "processed"

    @property
    def rejected(self) -> Path:
        """Originals that cannot be analysed, each with its reason."""
        return self.home / "rejected"

    @property
    def duplicates(self) -> Path:
        """Byte-identical re-sends."""
        return self.home / "duplicates"

    @property
    def bundles(self) -> Path:
        """Installed model bundles."""
        return self.home / "bundles"

    @property
    def service_state(self) -> Path:
        """File in which a running service says what the database does not know."""
        return self.home / "service.json"

    @property
    def health_socket(self) -> Path:
        """Socket on which a running service answers, with `health_address` as `unix`."""
        return self.home / "health.sock"

    def create(self) -> None:
        """Make the folders that do not exist yet; the modes of existing ones are the operator's.

        Raises
        ------
        ConfigurationError
            If a folder cannot be made, or if they are not all on one file system.
        """
        private = (self.spool, self.processed, self.rejected, self.duplicates, self.bundles)
        try:
            self.home.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            _make(self.inbox, INBOX_MODE)
            for folder in private:
                _make(folder, FOLDER_MODE)
            devices = {folder: folder.stat().st_dev for folder in (self.inbox, *private)}
        except OSError as error:
            raise ConfigurationError(f"{error.filename} cannot be used as a folder: {error.strerror}.") from error
        for folder in (self.inbox, self.processed, self.rejected, self.duplicates):
            if devices[folder] != devices[self.spool]:
                raise ConfigurationError(
                    f"{folder} and {self.spool} are on different file systems, but files are moved between"
                    " them by rename: put both on one."
                )


def _make(folder: Path, mode: int) -> None:
    """Make one folder; an existing one is left as it is."""
    try:
        folder.mkdir()
    except FileExistsError:
        os.scandir(folder).close()  # raises if it is no folder, or not ours to read
    else:
        try:
            folder.chmod(mode)  # mkdir would leave out set-group-id and what the umask masks
        except OSError:  # RestrictSUIDSGID= of the unit
            folder.rmdir()  # else the next start would take it for one that the operator made so
            raise
