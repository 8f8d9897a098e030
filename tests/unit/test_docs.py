"""The README says what the code does: every command, setting, code and column is in it, and nothing else."""

import dataclasses
import re
import shlex
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from xray_batch import DISCLAIMER
from xray_batch.bench.measures import Ceiling, EndToEnd, ForwardTimes, Machine, StageTimes, WorklistTimes
from xray_batch.cli import EXIT_CONFIGURATION, EXIT_PROBLEM, app
from xray_batch.decode import transfer_syntaxes
from xray_batch.errors import ReasonCode
from xray_batch.records import RESULT_COLUMNS, ImageWarning, Outcome
from xray_batch.settings import ENVIRONMENT_PREFIX, Settings, load_settings
from xray_batch.training.evaluation.facts import Report
from xray_batch.training.order import TrainingOptions, make_options
from xray_batch.web.words import REASONS, WARNINGS

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
EXAMPLE_CONFIG = REPOSITORY / "deploy" / "xray-batch.toml"

SET_UP_COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/xray-batch demo",
    "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
)

#: What the README says of defaults that depend on the machine or the user.
COMPUTED_DEFAULTS = {
    "home": "`~/.local/share/xray-batch`",
    "decode_workers": "one per core, at most 32",
}


def walk_commands() -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, by its full name."""
    todo = [("xray-batch", typer.main.get_command(app))]
    while todo:
        name, command = todo.pop()
        children = getattr(command, "commands", {})
        todo += [(f"{name} {child}", children[child]) for child in children]
        if not children:
            yield name, command


COMMANDS = dict(walk_commands())
GROUPS = {name.rpartition(" ")[0] for name in COMMANDS}


#: The README without its blocks of code, whose comments look like headings.
PROSE = re.sub(r"^```.*?^```\n", "", README, flags=re.MULTILINE | re.DOTALL)
CODE_BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """Return the text below a heading, up to the next heading; code blocks are left out."""
    _, found, rest = PROSE.partition(f"# {title}\n")
    assert found, f"the README has no heading {title!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a text: rows of cells, without the heading and the ruler."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()[2:]] for table in found]


def quoted(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def first_column(title: str, table: int = 0) -> list[str]:
    """Return the names in the first column of a section's table; every one has a meaning beside it."""
    rows = tables(section(title))[table]
    assert all(len(row) > 1 and row[1] for row in rows)
    return [name for row in rows for name in quoted(row[0])]


def shell_lines() -> list[str]:
    """Return the command lines of the README's shell blocks and of its inline code."""
    lines = [line for language, block in CODE_BLOCKS if language == "sh" for line in block.splitlines()]
    return lines + re.findall(r"`(xray-batch [^`]+)`", PROSE)


def uses_of_our_command() -> list[list[str]]:
    """Return the words of each use of `xray-batch` in the README, the program itself left out."""
    uses = []
    for line in shell_lines():
        inner = re.sub(r"'(?:set -a; )([^']*)'", r"\1", line)  # a command line handed to `sh -c`
        for part in re.split(r"&&|[|;]", inner):
            words = [word for word in shlex.split(part, comments=True) if word != "&"]
            ours = [at for at, word in enumerate(words) if word.endswith("bin/xray-batch")]
            ours += [0] if words[:1] == ["xray-batch"] else []
            uses += [words[at + 1 :] for at in ours]
    return uses


class TestCommands:
    """The commands and what the README says of them."""

    def test_every_command_is_in_the_table_and_no_other(self):
        """The table of commands names exactly the commands that there are."""
        assert set(first_column("Commands")) == set(COMMANDS)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_has_help(self, name):
        """Each command says what it does, and each of its options what it is for."""
        command = COMMANDS[name]
        assert command.help
        assert not [parameter.name for parameter in command.params if not parameter.help]

    def test_every_command_takes_the_common_options(self):
        """Each command takes --home, --config and --database-url."""
        for name, command in COMMANDS.items():
            options = {option for parameter in command.params for option in parameter.opts}
            assert {"--home", "--config", "--database-url"} <= options, name

    def test_the_examples_name_commands_and_options_that_exist(self):
        """Every use of `xray-batch` in the README is a real command with real options."""
        uses = uses_of_our_command()
        assert len(uses) > 15
        for words in uses:
            name = " ".join(["xray-batch", *words[:1]])
            arguments = words[1:]
            if name in GROUPS:
                name, arguments = f"{name} {words[1]}", words[2:]
            assert name in COMMANDS, words
            known = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
            assert {word for word in arguments if word.startswith("--")} <= known, words

    def test_the_set_up_commands_are_there_word_for_word(self):
        """Both set-up commands are in the README, each on one line of its own."""
        assert set(SET_UP_COMMANDS) <= set(README.splitlines())

    def test_exit_codes(self):
        """The table of exit codes names success, a problem, wrong usage and a configuration error."""
        assert first_column("Commands", 1) == ["0", str(EXIT_PROBLEM), "2", str(EXIT_CONFIGURATION)]


class TestSettings:
    """The settings, the README's table and the example configuration."""

    def test_every_setting_is_in_the_table(self):
        """The table names exactly the settings, in the order of `Settings`."""
        assert first_column("Configuration") == list(Settings.model_fields)

    @pytest.mark.parametrize("name", Settings.model_fields)
    def test_default_and_meaning(self, name):
        """A setting's row has its default and its description."""
        field = Settings.model_fields[name]
        row = next(row for row in tables(section("Configuration"))[0] if row[0] == f"`{name}`")
        default = f"{field.default:g}" if isinstance(field.default, float) else field.default
        default = str(default).lower() if isinstance(default, bool) else default  # as TOML has it
        shown = "none" if default in (None, ()) else f"`{default}`"
        assert row[1] == COMPUTED_DEFAULTS.get(name, shown)
        assert row[2] == field.description

    def test_options(self):
        """A setting's row names its option exactly where a command has one."""
        known = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
        for row in tables(section("Configuration"))[0]:
            option = "--" + row[0].strip("`").replace("_", "-")
            # `train --batch-size` is of the training, not the setting.
            assert row[3] == (f"`{option}`" if option in known - {"--batch-size"} else "")

    def test_values_of_choices(self):
        """Every value that a setting of choices can have is named."""
        text = section("Configuration")
        for name, field in Settings.model_fields.items():
            choices = getattr(field.annotation, "__args__", ())
            for choice in choices:
                assert not isinstance(choice, str) or f"`{choice}`" in text, f"{name}: {choice}"

    def test_ways_to_set(self):
        """The README says how a setting is named in the environment, and which variable names the file."""
        text = section("Configuration")
        assert f"`{ENVIRONMENT_PREFIX}SCAN_SECONDS=5`" in text
        assert f"`{ENVIRONMENT_PREFIX}CONFIG`" in text

    def test_example_configuration_holds_the_defaults(self):
        """The example configuration loads as it is, and changes nothing."""
        assert load_settings({}, config=EXAMPLE_CONFIG, environment={}) == Settings()

    def test_example_configuration_names_every_setting_and_no_other(self):
        """Each setting is in the example, some commented out; those load too when taken in."""
        text = EXAMPLE_CONFIG.read_text(encoding="utf-8")
        everything = re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
        values = tomllib.loads(everything)
        assert list(values) == list(Settings.model_fields)
        for other in ("database_url", "database_url_file"):  # one of the two
            load_settings(values | {other: None}, environment={})


class TestTrainingOptions:
    """The options of a training and the README's table."""

    ROWS = tables(section("Train your own bundle"))[0]

    def test_every_option_is_in_the_table(self):
        """The table names exactly the options, in the order of `TrainingOptions`."""
        assert [row[0] for row in self.ROWS] == [f"`{name}`" for name in TrainingOptions.model_fields]

    @pytest.mark.parametrize("name", TrainingOptions.model_fields)
    def test_default_meaning_and_command_line(self, name):
        """An option's row has its default, its description, and its name on the command line if it has one."""
        field = TrainingOptions.model_fields[name]
        row = next(row for row in self.ROWS if row[0] == f"`{name}`")
        assert row[1] == ("" if field.default in (None, ()) else f"`{toml(field.default)}`")
        assert row[2] == field.description
        options = {option for parameter in COMMANDS["xray-batch train"].params for option in parameter.opts}
        option = f"--{name.replace('_', '-')}"
        assert row[3] == (f"`{option}`" if option in options else "")

    def test_example(self):
        """The example of a `[train]` table is one that a training takes."""
        (text,) = [block for language, block in CODE_BLOCKS if language == "toml" and "[train]" in block]
        assert make_options(tomllib.loads(text)["train"], {}).folds == 5


def toml(value):
    """Write a default as a configuration file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return list(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value


class TestCodes:
    """Codes, columns and encodings that the outside relies on."""

    def test_reason_codes(self):
        """The table of reason codes names exactly the codes, in their order."""
        assert first_column("Reason codes") == [code.value for code in ReasonCode]

    def test_warnings(self):
        """The table of warnings names exactly the warnings, in their order."""
        assert first_column("Warnings") == [warning.value for warning in ImageWarning]

    def test_the_page_says_the_same(self):
        """The worklist page has every reason and warning in the README's words."""
        for title, words in (("Reason codes", REASONS), ("Warnings", WARNINGS)):
            cells = {
                quoted(row[0])[0]: re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", row[1]) for row in tables(section(title))[0]
            }
            assert cells == words

    def test_outcomes(self):
        """The table of outcomes names exactly the outcomes."""
        assert first_column("What an answer means") == [outcome.value for outcome in Outcome]

    def test_columns_of_results(self):
        """The table of the view `results` names exactly its columns, in their order."""
        assert first_column("Columns of the view `results`") == list(RESULT_COLUMNS)

    def test_columns_of_accounting(self):
        """The columns of the view `accounting` are named."""
        named = quoted(section("Columns of the view `results`").rpartition("The view `accounting`")[2])
        assert {"arrivals", "results", "rejected", "duplicates", "pending", "lost"} <= set(named)

    def test_keys_of_a_report(self):
        """The table of `report.json` names exactly its keys, in their order."""
        assert first_column("Measure a bundle on your own films", 1) == list(Report.model_fields)

    def test_keys_of_a_benchmark(self):
        """The table of the benchmark's JSON names exactly the kinds of rows and their keys, in their order."""
        kinds = (Machine, StageTimes, ForwardTimes, Ceiling, EndToEnd, WorklistTimes)
        rows = [[quoted(cell) for cell in row] for row in tables(section("Speed"))[0]]
        assert [kind for (kind,), _ in rows] == ["machine", "stages", "forward", "ceiling", "end_to_end", "worklist"]
        keys = [[field.name for field in dataclasses.fields(kind)] for kind in kinds]
        keys[0] += ["side", "repeats", "mix"]
        assert [named for _, named in rows] == keys

    def test_metrics(self):
        """The table of metrics names exactly those that a service exposes, with their labels, each with a meaning."""
        from xray_batch.service.metrics import Metrics

        metrics = Metrics()
        metrics.model.labels("model-1.0.0", "0" * 64)
        exposed = set()
        for family in metrics.registry.collect():
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            name = f"{family.name}_total" if family.type == "counter" else family.name
            exposed.add((name, frozenset(labels)))
        named = [re.fullmatch(r"(\w+)(?:\{(.+)\})?", cell) for cell in first_column("Watch the service", 1)]
        assert {(found[1], frozenset(found[2].split(",") if found[2] else ())) for found in named if found} == exposed

    def test_transfer_syntaxes(self):
        """The README names exactly the transfer syntaxes that are read, as the standard does, with their UIDs."""
        rows = tables(section("What is accepted"))[1]
        listed = ", ".join(row[1] for row in rows)
        named = re.findall(r"(?:^|, )([A-Z].+?) \((none|\.[\d.]+)\)(?=, [A-Z]|$)", listed)
        read = {syntax.name: syntax.uid for syntax in transfer_syntaxes()}
        assert {name: "1.2.840.10008.1.2" + suffix.removeprefix("none") for name, suffix in named} == read


class TestText:
    """Links, paths and the words that must be there."""

    def test_disclaimer(self):
        """The disclaimer stands before the first section."""
        assert DISCLAIMER in README.partition("\n## ")[0]

    def test_relative_links(self):
        """Every link to a file leads to one, and every link within the README to a heading."""
        anchors = {_anchor(heading) for heading in re.findall(r"^#+ (.+)$", PROSE, re.MULTILINE)}
        links = re.findall(r"\]\(([^)\s]+)\)", README)
        assert links
        for link in links:
            if link.startswith("#"):
                assert link[1:] in anchors, link
            elif not link.startswith("https://"):
                assert (REPOSITORY / link).exists(), link

    def test_layout(self):
        """Every path of the layout map exists, and every module of the package is on it."""
        paths = first_column("Layout")
        assert not [path for path in paths if not (REPOSITORY / path).exists()]
        package = REPOSITORY / "xray_batch"
        modules = {path for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
        expected = {path.relative_to(REPOSITORY).as_posix() for path in modules if not path.name.startswith("__")}
        assert expected <= {path.rstrip("/") for path in paths}

    def test_the_unit_points_to_a_section_that_exists(self):
        """The systemd unit names sections of the README, that which installs it among them."""
        unit = (REPOSITORY / "deploy" / "xray-batch.service").read_text(encoding="utf-8")
        titles = re.findall(r'README, "([^"]+)"', unit)
        assert "Run as a service" in titles
        assert all(map(section, titles))

    def test_changelog_has_this_version(self):
        """The changelog has an entry for the version of the package."""
        from xray_batch import __version__

        assert f"## [{__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def _anchor(heading: str) -> str:
    """Return the name that GitHub and GitLab give a heading."""
    kept = "".join(letter for letter in heading.lower() if letter not in string.punctuation.replace("-", ""))
    return kept.replace(" ", "-")
