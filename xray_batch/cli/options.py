"""Options that every command takes, and what they open."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from xray_batch.errors import ConfigurationError
from xray_batch.logs import configure_logs
from xray_batch.settings import Settings, load_settings

if TYPE_CHECKING:
    from xray_batch.bundle import Bundle
    from xray_batch.store import Store

Home: TypeAlias = Annotated[Path | None, typer.Option("--home", help="Folder of the installation.")]
Config: TypeAlias = Annotated[Path | None, typer.Option("--config", help="Configuration file (TOML).")]
DatabaseUrl: TypeAlias = Annotated[
    str | None,
    typer.Option("--database-url", help="Database: sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME."),
]
BundleName: TypeAlias = Annotated[str | None, typer.Option("--bundle", help="Model bundle: its name, or a path.")]
UnpackZip: TypeAlias = Annotated[
    bool | None, typer.Option("--unpack-zip/--no-unpack-zip", help="Unpack zip archives, or refuse them.")
]
Decode: TypeAlias = Annotated[
    str | None, typer.Option("--decode", help="exact, or fast: JPEG 2000 at half or a quarter of its resolution.")
]
Since: TypeAlias = Annotated[
    str | None,
    typer.Option("--since", help="Classified at or after this ISO 8601 date or time; local, unless it has a zone."),
]
Until: TypeAlias = Annotated[
    str | None, typer.Option("--until", help="Classified before this ISO 8601 date or time; likewise.")
]
Device: TypeAlias = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]


def open_settings(home: Path | None, config: Path | None, database_url: str | None, **others: object) -> Settings:
    """Read the settings and configure the log by them."""
    settings = load_settings({"home": home, "database_url": database_url, **others}, config=config)
    configure_logs(settings.log_level, settings.log_format)
    return settings


def open_bundle(settings: Settings, name: str | None = None) -> "Bundle":
    """Open the bundle that the settings name, or another by its name or path."""
    from xray_batch.bundle import find_bundle
    from xray_batch.intake import Folders

    return find_bundle(name or settings.bundle, Folders(settings.home).bundles)


@contextmanager
def open_store(settings: Settings, *, create: bool = True) -> Iterator["Store"]:
    """Open the database of `settings`; a SQLite one is upgraded as needed, and made if `create`.

    Raises
    ------
    ConfigurationError
        If there is no SQLite file and none may be made: most likely the wrong home folder was named.
    """
    from xray_batch.database import sqlite_path
    from xray_batch.revisions import open_database
    from xray_batch.store import Store

    path = sqlite_path(settings.resolved_database_url)
    if path is not None and not create and not path.exists():
        message = f"there is no database {path}; name the home folder with --home, or the database"
        raise ConfigurationError(message)
    store = Store(open_database(settings.resolved_database_url))
    try:
        yield store
    finally:
        store.close()


def parse_time(text: str | None, option: str) -> dt.datetime | None:
    """Read an ISO 8601 date or time; without a zone it is the machine's local time."""
    if text is None:
        return None
    try:
        return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        message = f"{option} is {text!r}, expected a date or time such as 2026-03-31 or 2026-03-31T08:00+01:00"
        raise typer.BadParameter(message) from error
