"""Settings: four sources, each over the one before; a mistake is named, a secret is not."""

from pathlib import Path

import pytest

from xray_batch import settings as settings_module
from xray_batch.errors import ConfigurationError
from xray_batch.settings import Settings, default_home, load_settings, load_training_table

SECRET = "postgresql://reader:hunter2@db.example/results"


@pytest.fixture
def home(tmp_path):
    """Name a home folder that exists and is empty."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def write_config(path: Path, text: str) -> Path:
    """Write a configuration file and return its path."""
    path.write_text(text, encoding="utf-8")
    return path


def refusal(command_line=None, *, config=None, environment=None) -> str:
    """Return the sentence with which settings are refused, and check that the causes tell no secret."""
    with pytest.raises(ConfigurationError) as refused:
        load_settings(command_line or {}, config=config, environment=environment or {})
    error = refused.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__
    return str(refused.value)


def test_defaults(home):
    """Without any source every setting has its default, and the database is a file in the home folder."""
    settings = load_settings({"home": home}, environment={})
    assert settings == Settings(home=home)
    assert settings.bundle == "default"
    assert settings.database_url is None
    assert settings.resolved_database_url == f"sqlite:///{home}/results.sqlite3"


def test_each_source_is_over_the_one_before(home):
    """Defaults < file < environment < command line, setting by setting."""
    write_config(home / "xray-batch.toml", "batch_size = 2\nmax_attempts = 2\nscan_seconds = 2.0")
    environment = {"XRAY_BATCH_MAX_ATTEMPTS": "4", "XRAY_BATCH_SCAN_SECONDS": "4"}
    settings = load_settings({"home": home, "scan_seconds": 8.0}, environment=environment)
    assert settings.batch_size == 2
    assert settings.max_attempts == 4
    assert settings.scan_seconds == 8.0
    assert settings.settle_seconds == 2.0


def test_option_that_is_not_given(home):
    """An option of None does not hide what another source says."""
    settings = load_settings({"home": home, "bundle": None}, environment={"XRAY_BATCH_BUNDLE": "mine"})
    assert settings.bundle == "mine"


def test_environment_of_the_process(home, monkeypatch):
    """The process's environment is read; names without the prefix mean nothing."""
    monkeypatch.setenv("XRAY_BATCH_HOME", str(home))
    monkeypatch.setenv("XRAY_BATCH_DEVICE", "cpu")
    monkeypatch.setenv("DEVICE", "nonsense")
    settings = load_settings({})
    assert settings.home == home
    assert settings.device == "cpu"


def test_home_finds_the_file(home):
    """The home folder of the environment is where the configuration file is looked for."""
    write_config(home / "xray-batch.toml", 'log_level = "debug"')
    assert load_settings({}, environment={"XRAY_BATCH_HOME": str(home)}).log_level == "debug"


@pytest.mark.parametrize("named", ["option", "environment"])
def test_home_that_no_shell_has_expanded(named, home, monkeypatch):
    """The file of a home folder that is named with `~` is read, too."""
    monkeypatch.setenv("HOME", str(home.parent))
    write_config(home / "xray-batch.toml", "batch_size = 2\n[train]\nfolds = 5")
    options = {"home": Path("~/home")} if named == "option" else {}
    environment = {} if options else {"XRAY_BATCH_HOME": "~/home"}
    settings = load_settings(options, environment=environment)
    assert (settings.home, settings.batch_size) == (home, 2)
    assert load_training_table(options.get("home"), None, environment) == {"folds": 5}


@pytest.mark.parametrize("name", ["home", "database_url_file", "web_token_file"])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ('""', "expected the path of a file or folder"),
        ("5", "expected the path of a file or folder"),
        ('"~nobody-of-this-name/x"', "no home folder is known for ~nobody-of-this-name"),
    ],
)
def test_wrong_path(name, value, sentence, tmp_path):
    """No path, and one of a user who is not there, is refused like any other value."""
    path = write_config(tmp_path / "config.toml", f"{name} = {value}")
    assert refusal(config=path) == f"wrong setting '{name}' in {path}: {sentence}"


def test_wrong_home_in_the_environment():
    """A home folder that cannot be is refused before a configuration file is looked for in it."""
    for value in ("", "~nobody-of-this-name/x"):
        assert refusal(environment={"XRAY_BATCH_HOME": value}).startswith("wrong setting 'home' in the environment")


def test_user_without_a_home_folder(monkeypatch):
    """A user of whom nobody knows a home folder, as in a container, is asked for the installation's."""
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", raise_like_pathlib)
    assert refusal() == "this user has no home folder; name the folder of the installation by --home"


def raise_like_pathlib():
    """Fail as `Path.home` does where HOME is not set and the user is in no list."""
    raise RuntimeError("Could not determine home directory.")


def test_named_file_is_over_that_of_the_home(home, tmp_path):
    """A file that is named is read instead of the home's; one on the command line instead of the environment's."""
    write_config(home / "xray-batch.toml", "batch_size = 2\nmax_attempts = 2")
    first = write_config(tmp_path / "first.toml", "batch_size = 3")
    second = write_config(tmp_path / "second.toml", "batch_size = 4")
    environment = {"XRAY_BATCH_CONFIG": str(first)}
    by_environment = load_settings({"home": home}, environment=environment)
    assert (by_environment.batch_size, by_environment.max_attempts) == (3, 3)
    assert load_settings({"home": home}, config=second, environment=environment).batch_size == 4


def test_default_home(monkeypatch):
    """Without a home the XDG data folder is used, and without that the user's own."""
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/data")
    assert default_home() == Path("/srv/data/xray-batch")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_home() == Path("/home/somebody/.local/share/xray-batch")


def test_decode_workers_follow_the_machine(home, monkeypatch):
    """There is one decode process per core that is ours, at most 32, unless the setting says otherwise."""
    for cores, workers in ((1, 1), (2, 2), (64, 32)):
        monkeypatch.setattr(settings_module, "usable_cores", lambda cores=cores: cores)
        assert Settings(home=home).decode_workers == workers
    assert load_settings({"home": home}, environment={"XRAY_BATCH_DECODE_WORKERS": "3"}).decode_workers == 3


def test_database_url(home):
    """A database that is named is used as it is."""
    settings = load_settings({"home": home, "database_url": SECRET}, environment={})
    assert settings.resolved_database_url == SECRET


class TestDatabaseUrlFile:
    """The URL of the database, with its password, may stand in a file of its own."""

    @pytest.fixture
    def secret_file(self, tmp_path):
        """Write the URL as editors and `systemd-creds` do: with a line end, and with a comment after it."""
        path = tmp_path / "database-url"
        path.write_text(f"{SECRET}\n# changed in November\n", encoding="utf-8")
        return path

    def test_first_line_is_the_url(self, home, secret_file):
        """The first line of the file, without its end, is the URL, wherever the setting comes from."""
        for given in (
            {"command_line": {"database_url_file": secret_file}, "environment": {}},
            {"command_line": {}, "environment": {"XRAY_BATCH_DATABASE_URL_FILE": str(secret_file)}},
            {
                "command_line": {},
                "environment": {},
                "config": write_config(home / "a.toml", f'database_url_file = "{secret_file}"'),
            },
        ):
            assert load_settings(**given).resolved_database_url == SECRET

    def test_is_read_when_it_is_used(self, home, secret_file):
        """Commands that need no database need no right to read the secret; a new password is that of the next use."""
        settings = load_settings({"home": home, "database_url_file": secret_file}, environment={})
        secret_file.write_text("sqlite:////srv/other.sqlite3", encoding="utf-8")
        assert settings.resolved_database_url == "sqlite:////srv/other.sqlite3"

    def test_never_printed(self, home, secret_file):
        """Printing or logging the settings tells the file's name at most."""
        settings = load_settings({"home": home, "database_url_file": secret_file}, environment={})
        assert settings.resolved_database_url == SECRET
        for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
            assert "hunter2" not in text

    def test_both_in_one_source(self, home, secret_file):
        """Two databases in one source are refused: nobody could say which is meant."""
        path = write_config(home / "xray-batch.toml", f'database_url_file = "{secret_file}"\ndatabase_url = "{SECRET}"')
        message = refusal({"home": home})
        assert message.startswith(f"wrong setting 'database_url_file' in {path}: ")
        assert "`database_url` is given as well" in message

    def test_the_later_source_wins(self, home, secret_file):
        """As with every setting the later source wins, whichever way it names the database."""
        write_config(home / "xray-batch.toml", 'database_url = "sqlite:////srv/file.sqlite3"')
        environment = {"XRAY_BATCH_DATABASE_URL_FILE": str(secret_file)}
        assert load_settings({"home": home}, environment=environment).resolved_database_url == SECRET
        named = load_settings({"home": home, "database_url": "sqlite:////srv/x.sqlite3"}, environment=environment)
        assert named.resolved_database_url == "sqlite:////srv/x.sqlite3"

    @pytest.mark.parametrize("content", [b"", b"\n" + SECRET.encode(), b"   \n", b"hunter2 \xff\n"])
    def test_no_url_in_the_file(self, content, home, tmp_path):
        """A first line that is empty or no text is refused by the file's name; SQLite does not step in for it."""
        path = tmp_path / "database-url"
        path.write_bytes(content)
        settings = load_settings({"home": home, "database_url_file": path}, environment={})
        with pytest.raises(ConfigurationError, match=r"database-url.*'database_url_file'") as refused:
            settings.resolved_database_url  # noqa: B018 - reading it is what fails
        assert "hunter2" not in f"{refused.value} {refused.value.__cause__}"

    def test_no_file(self, home, tmp_path):
        """A file that is not there is refused, and SQLite does not step in for it."""
        path = tmp_path / "absent"
        settings = load_settings({"home": home, "database_url_file": path}, environment={})
        with pytest.raises(ConfigurationError, match=rf"{path} .*'database_url_file' cannot be read: No such file"):
            settings.resolved_database_url  # noqa: B018 - reading it is what fails


def test_settings_are_frozen(home):
    """Settings do not change after they were read."""
    with pytest.raises(ValueError, match="frozen"):
        Settings(home=home).batch_size = 3


def test_unknown_name_in_the_file(home):
    """A misspelt setting in the file is refused with its name and the file's."""
    path = write_config(home / "xray-batch.toml", "batchsize = 2")
    assert refusal({"home": home}) == f"unknown setting 'batchsize' in {path}; the README lists the settings"


def test_unknown_name_in_the_environment(home):
    """A misspelt setting in the environment is refused with the variable's name."""
    assert refusal({"home": home}, environment={"XRAY_BATCH_BATCHSIZE": "2"}) == (
        "unknown setting 'batchsize' in the environment (XRAY_BATCH_BATCHSIZE); the README lists the settings"
    )


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("device", "gpu", "'auto', 'cpu' or 'cuda'"),
        ("batch_size", "0", "greater than or equal to 1"),
        ("batch_size", "2000", "less than or equal to 1024"),
        ("batch_size", "many", "integer"),
        ("decode_seconds", "0", "greater than 0"),
        ("decode_seconds", "1e12", "less than or equal to 86400"),
        ("lease_seconds", "1e12", "less than or equal to 86400"),
        ("decode_memory_mb", "100", "greater than or equal to 512"),
        ("log_format", "xml", "'auto', 'json' or 'console'"),
        ("health_address", "0.0.0.0:9464", ": expected `unix`, `off`, or a loopback address"),
    ],
)
def test_wrong_value(name, value, accepted, home):
    """A wrong value is refused with the setting, its source, and what is accepted, wherever it comes from."""
    variable = f"XRAY_BATCH_{name.upper()}"
    in_environment = refusal({"home": home}, environment={variable: value})
    assert in_environment.startswith(f"wrong setting '{name}' in the environment ({variable}): ")
    assert accepted in in_environment
    on_command_line = refusal({"home": home, name: value})
    assert on_command_line.startswith(f"wrong setting '{name}' on the command line (--{name.replace('_', '-')}): ")
    assert accepted in on_command_line
    path = write_config(home / "xray-batch.toml", f'{name} = "{value}"')
    in_file = refusal({"home": home})
    assert in_file.startswith(f"wrong setting '{name}' in {path}: ")
    assert accepted in in_file


def test_source_of_the_value_in_effect_is_named(home):
    """Where several sources give a setting, the one in effect is named."""
    write_config(home / "xray-batch.toml", "batch_size = 2")
    assert "in the environment" in refusal({"home": home}, environment={"XRAY_BATCH_BATCH_SIZE": "0"})


def test_secret_in_a_wrong_setting(home):
    """No part of an error tells a value: neither of a wrong setting nor of a misspelt one."""
    path = write_config(home / "xray-batch.toml", f'database_url = ["{SECRET}"]')
    assert refusal({"home": home}).startswith(f"wrong setting 'database_url' in {path}: ")
    path.unlink()
    assert "'databse_url'" in refusal({"home": home}, environment={"XRAY_BATCH_DATABSE_URL": SECRET})


def test_secret_in_settings(home):
    """Printing or logging the settings does not tell the database's password."""
    settings = load_settings({"home": home, "database_url": SECRET}, environment={})
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "hunter2" not in text


@pytest.mark.parametrize("content", [b"batch_size = ", b"[", b"bundle = '\xff'"])
def test_file_that_is_not_toml(content, home):
    """A broken file is refused by its name."""
    path = home / "xray-batch.toml"
    path.write_bytes(content)
    assert refusal({"home": home}).startswith(f"the configuration file {path} is not TOML: ")


def test_file_that_is_not_there(home):
    """A file that is named must exist, even though the home's own need not."""
    path = home / "other.toml"
    assert refusal(config=path) == f"the configuration file {path} cannot be read: No such file or directory"
    assert refusal(environment={"XRAY_BATCH_CONFIG": str(path)}).startswith(f"the configuration file {path} cannot")


def test_every_setting_is_described():
    """Every setting has a description, which the README's table is checked against."""
    assert not [name for name, field in Settings.model_fields.items() if not field.description]


class TestTrainingTable:
    """The table `[train]` stands in the same file, and is no setting."""

    def test_it_is_read_apart(self, home):
        """Settings do not mind the table, and its options are returned; without a file there are none."""
        assert load_training_table(home, None, {}) == {}
        write_config(home / "xray-batch.toml", "batch_size = 2\n[train]\nfolds = 5\n")
        assert load_settings({"home": home}, environment={}).batch_size == 2
        assert load_training_table(home, None, {}) == {"folds": 5}
        assert load_training_table(None, None, {"XRAY_BATCH_HOME": str(home)}) == {"folds": 5}

    def test_a_named_file_comes_first(self, home, tmp_path):
        """The file named on the command line, or else in the environment, is read instead of the home folder's."""
        write_config(home / "xray-batch.toml", "[train]\nfolds = 5\n")
        named = write_config(tmp_path / "train.toml", "[train]\nfolds = 3\n")
        assert load_training_table(home, named, {}) == {"folds": 3}
        assert load_training_table(home, None, {"XRAY_BATCH_CONFIG": str(named)}) == {"folds": 3}

    def test_no_table(self, home):
        """A value called `train` that is no table is refused."""
        path = write_config(home / "xray-batch.toml", "train = 5\n")
        with pytest.raises(ConfigurationError, match=rf"'train' in {path} is no table; write \[train\]"):
            load_training_table(home, None, {})


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "192.0.2.1:80", "example.org:80", "127.0.0.1", "127.0.0.1:0", ""])
def test_health_is_for_this_machine_alone(address):
    """Another address than loopback is refused, and so is what is none."""
    with pytest.raises(ConfigurationError, match="health_address"):
        load_settings({"health_address": address}, environment={})
