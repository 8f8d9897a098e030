"""One `Settings` object, read once: defaults < TOML file < environment < command line."""

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from xray_batch.errors import ConfigurationError
from xray_batch.resources import usable_cores

DeviceName: TypeAlias = Literal["auto", "cpu", "cuda"]
PrecisionName: TypeAlias = Literal["auto", "float32", "bfloat16"]
DecodeName: TypeAlias = Literal["exact", "fast"]
AgePolicyName: TypeAlias = Literal["flag", "refuse"]


def _split(value: object) -> object:
    """Read names from an environment variable, which has no lists: separated by commas."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _refuse_nothing(value: object) -> object:
    """Refuse what is no path; an empty one, of a variable that was given no value, would be the working folder."""
    if not isinstance(value, str | Path) or value == "":
        raise ValueError("expected the path of a file or folder")
    return value


def _expand(path: Path) -> Path:
    """Put a home folder in the place of a leading `~`, as the shell does not in `--home=~/xray`."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"no home folder is known for {path.parts[0]}") from None


Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_split)]
UserPath: TypeAlias = Annotated[Path, BeforeValidator(_refuse_nothing), AfterValidator(_expand)]

ENVIRONMENT_PREFIX: Final = "XRAY_BATCH_"

#: Read where no file is named and this one exists in the home folder.
CONFIG_NAME: Final = "xray-batch.toml"

#: Options of `xray-batch train` in the configuration file; no settings.
TRAIN_TABLE: Final = "train"

#: The embedded database, in the home folder.
DATABASE_NAME: Final = "results.sqlite3"

#: Two ways to name one thing.
_DATABASE: Final = frozenset({"database_url", "database_url_file"})

#: No URL is longer; a file that is no text file is not read into memory.
_URL_BYTES: Final = 4096


def default_home() -> Path:
    """Return the folder of a user who named none, after the XDG Base Directory Specification.

    Raises
    ------
    ConfigurationError
        If nothing says where the user's home folder is, as in a container that runs as any user.
    """
    data_home = os.environ.get("XDG_DATA_HOME")
    try:
        return (Path(data_home) if data_home else Path.home() / ".local" / "share") / "xray-batch"
    except RuntimeError as error:
        message = "this user has no home folder; name the folder of the installation by --home"
        raise ConfigurationError(message) from error


class Settings(BaseModel):
    """Every setting; the README's table is checked against these fields and their descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    home: UserPath = Field(default_factory=default_home, description="Folder of the installation: inbox, results, ...")
    database_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL of the database; without one, `results.sqlite3` in the home folder"
    )
    database_url_file: UserPath | None = Field(
        None, description="File whose first line is that URL, instead of `database_url`: passwords belong there"
    )
    bundle: str = Field("default", description="Model bundle: name of an installed or packaged one, or a path")
    device: DeviceName = Field("auto", description="Where the networks run")
    precision: PrecisionName = Field(
        "auto", description="Arithmetic of the convolutions; `auto` is bfloat16 where that is faster"
    )
    batch_size: int = Field(16, ge=1, le=1024, description="Images in one forward pass at most")
    decode: DecodeName = Field(
        "exact", description="Whether JPEG 2000 films may be decoded at half or a quarter of their resolution: `fast`"
    )
    decode_workers: int = Field(
        default_factory=lambda: min(32, usable_cores()), ge=1, le=256, description="Decode processes"
    )
    decode_seconds: float = Field(60.0, gt=0, le=86_400, description="Time that decoding one file may take")
    decode_memory_mb: int = Field(2048, ge=512, description="Address space of one decode process, MiB")
    age_policy: AgePolicyName = Field(
        "flag", description="What happens with a patient whose age is outside those that the bundle is meant for"
    )
    max_attempts: int = Field(3, ge=1, le=20, description="Tries for a file whose processing ends abnormally")
    settle_seconds: float = Field(2.0, ge=0, description="A file in the inbox is complete when unchanged this long")
    incomplete_seconds: float = Field(
        30.0, ge=0, description="A file whose format has not ended is refused as truncated when unchanged this long"
    )
    scan_seconds: float = Field(5.0, gt=0, le=3600, description="Time between two scans of the inbox")
    lease_seconds: float = Field(
        20.0, ge=10, le=86_400, description="A service that died gives its files up after this time"
    )
    drain_seconds: float = Field(30.0, ge=0, description="Time to finish the work in hand when told to stop")
    disk_floor_mb: int = Field(
        5120, ge=0, description="MiB that stay free: below it nothing is taken in; of a small disk 5 %"
    )
    health_address: str = Field(
        "unix", description="Where `/livez`, `/readyz` and `/metrics` are: `unix`, HOST:PORT on loopback, or `off`"
    )
    web_address: str = Field(
        "127.0.0.1:8080",
        description="Where the worklist page is: `unix` for `web.sock` in the home folder, or HOST:PORT",
    )
    web_token_file: UserPath | None = Field(
        None, description="File with a line NAME:TOKEN for each user of the worklist page; without a token, no page"
    )
    web_user_header: str | None = Field(
        None, description="Header in which a trusted reverse proxy names the user whom it has let in"
    )
    web_proxies: Names = Field(
        (), description="Addresses of such proxies, `127.0.0.1` for one on this machine; over `web.sock` none is needed"
    )
    web_requeue_users: Names = Field(
        (), description="Users of the page who may have answers given again; `*` for all of them"
    )
    web_deidentified_users: Names = Field(
        (), description="Users of the page who never see identifiers of patients; `*` for all of them"
    )
    unpack_zip: bool = Field(
        False, description="Whether zip archives are unpacked, each member to be a file of its own"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Form of the log; `auto` is console on a terminal and JSON elsewhere"
    )

    @field_validator("health_address")
    @classmethod
    def _check_health_address(cls, address: str) -> str:
        if address in ("unix", "off"):
            return address
        host = host_of(address)
        if host is None or not host.is_loopback:
            raise ValueError("expected `unix`, `off`, or a loopback address and a port such as 127.0.0.1:9464")
        return address

    @field_validator("web_address")
    @classmethod
    def _check_web_address(cls, address: str) -> str:
        if address != "unix" and host_of(address) is None:
            raise ValueError("expected `unix`, or an IP address and a port such as 127.0.0.1:8080")
        return address

    @field_validator("web_proxies")
    @classmethod
    def _check_proxies(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            ipaddress.ip_address(proxy)
        return proxies

    @field_validator("database_url_file")
    @classmethod
    def _refuse_two_databases(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and info.data.get("database_url") is not None:
            raise ValueError("`database_url` is given as well, and only one of the two may be")
        return path

    @property
    def resolved_database_url(self) -> str:
        """URL of the database in use; may hold a password.

        Raises
        ------
        ConfigurationError
            If `database_url_file` cannot be read, or its first line is empty.
        """
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        if self.database_url_file is not None:
            return _read_first_line(self.database_url_file)
        return f"sqlite:///{self.home.absolute() / DATABASE_NAME}"


def host_and_port(address: str) -> tuple[str, int]:
    """Split HOST:PORT that a setting holds; an IPv6 address loses its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def host_of(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address of HOST:PORT; None if it is none, as `unix` is, or the port none."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def load_settings(
    command_line: Mapping[str, object],
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Merge the sources of settings and check the result.

    An unknown name is refused in every source, the environment too: a misspelt setting must not be
    silently without effect.

    Parameters
    ----------
    command_line
        Settings given as options; None means not given.
    config
        TOML file; without one, `$XRAY_BATCH_CONFIG`, else `xray-batch.toml` in the home folder if there is one.
    environment
        For tests; `os.environ` if None.

    Raises
    ------
    ConfigurationError
        Naming the first setting that is unknown or wrong, its source, and what is accepted.
    """
    from_environment = _from_environment(environment)
    given = {name: value for name, value in command_line.items() if value is not None}
    path = _find_config(given, config, from_environment)
    from_environment.pop("config", None)
    from_file = _read_toml(path) if path else {}
    from_file.pop(TRAIN_TABLE, None)
    sources = {name: f"in {path}" for name in from_file}
    sources |= {name: f"in the environment ({ENVIRONMENT_PREFIX}{name.upper()})" for name in from_environment}
    sources |= {name: f"on the command line (--{name.replace('_', '-')})" for name in given}
    try:
        return Settings(**_merge(from_file, from_environment, given))  # type: ignore[arg-type] # pydantic checks them
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        if first["type"] == "extra_forbidden":
            message = f"unknown setting {name!r} {sources.get(name, '')}; the README lists the settings"
        else:
            message = f"wrong setting {name!r} {sources.get(name, '')}: {first['msg'].removeprefix('Value error, ')}"
        raise ConfigurationError(message) from error


def _merge(*sources: Mapping[str, object]) -> dict[str, object]:
    """Return what is in force, each source over those before it."""
    merged: dict[str, object] = {}
    for source in sources:
        if not _DATABASE.isdisjoint(source):  # a database that is named later replaces one named the other way
            merged = {name: value for name, value in merged.items() if name not in _DATABASE}
        merged |= source
    return merged


def load_training_table(
    home: Path | None, config: Path | None, environment: Mapping[str, str] | None = None
) -> Mapping[str, object]:
    """Return the table `[train]` of the configuration file that :func:`load_settings` would read; empty without one.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or `train` is no table.
    """
    path = _find_config({"home": home}, config, _from_environment(environment))
    table = _read_toml(path).get(TRAIN_TABLE, {}) if path else {}
    if not isinstance(table, dict):
        message = f"'train' in {path} is no table; write [{TRAIN_TABLE}] above its options"
        raise ConfigurationError(message)
    return table


def _from_environment(environment: Mapping[str, str] | None) -> dict[str, str]:
    variables = os.environ if environment is None else environment
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in variables.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }


def _find_config(given: Mapping[str, object], config: Path | None, from_environment: Mapping[str, str]) -> Path | None:
    named = from_environment.get("config")
    if config or named:
        return config or Path(str(named))
    try:
        home = _expand(Path(str(given.get("home") or from_environment.get("home") or default_home())))
    except ValueError:
        return None  # the setting is refused for it
    return home / CONFIG_NAME if _exists(home / CONFIG_NAME) else None


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        message = f"{path} cannot be looked for: {error.strerror}"
        raise ConfigurationError(message) from error


def _read_toml(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        message = f"the configuration file {path} cannot be read: {error.strerror}"
        raise ConfigurationError(message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"the configuration file {path} is not TOML: {error}"
        raise ConfigurationError(message) from error


def _read_first_line(path: Path) -> str:
    """Read a secret; what the file holds is in no message."""
    try:
        with path.open("rb") as file:
            line = file.readline(_URL_BYTES).decode().strip()
    except OSError as error:
        message = f"the file {path} of the setting 'database_url_file' cannot be read: {error.strerror}"
        raise ConfigurationError(message) from error
    except UnicodeDecodeError:
        message = f"the file {path} of the setting 'database_url_file' is not UTF-8 text"
        raise ConfigurationError(message) from None
    if not line:
        message = f"the first line of {path}, of the setting 'database_url_file', is empty, expected a database URL"
        raise ConfigurationError(message)
    return line
