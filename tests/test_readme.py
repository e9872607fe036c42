"""What the README says is so: its options, its commands, its code."""

import pathlib
import re
import shlex

import pytest

from beam_kmeans import cli, flags
from beam_kmeans.io import formats

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PARSERS = flags.command_parsers(flags.build_parser())


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def table_of(column: str) -> list[list[str]]:
    """The cells of the rows of the table that starts with a column."""
    found = re.search(rf"^\| {column} \|.*?\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in found[1].splitlines()]


def actions_of(flag: str) -> dict[str, object]:
    """A flag's argparse actions, by command."""
    return {
        command: action
        for command, parser in PARSERS.items()
        for action in parser._actions
        if flag in action.option_strings
    }


# A pipe inside code would split a cell.
OPTIONS = {cells[0].strip("`"): cells[1:] for cells in table_of("flag")}


def test_the_option_table_has_every_flag_and_no_other():
    ours = {name for parser in PARSERS.values() for name in flags.flag_names(parser)}
    assert {*OPTIONS} == ours - {"-h", "--help"}


@pytest.mark.parametrize("flag", OPTIONS)
def test_the_option_table_names_the_commands_of_a_flag(flag):
    assert {*OPTIONS[flag][0].split(", ")} == {*actions_of(flag)}


@pytest.mark.parametrize("flag", OPTIONS)
def test_the_option_table_names_the_default_of_a_flag(flag):
    said = OPTIONS[flag][1]
    for action in actions_of(flag).values():
        assert (said == "required") == action.required
        if action.default not in (None, []):
            assert said == str(action.default).lower()
        elif not action.required:
            assert said == "none" or f"({said})".replace("`", "") in action.help


def test_the_command_table_has_every_command():
    assert {cells[0].strip("`") for cells in table_of("command")} == {*flags.COMMANDS}


def test_the_format_table_has_every_suffix():
    said = {
        suffix for cells in table_of("suffix") for suffix in re.findall(r"`(\.[\w.]+)`", cells[0])
    }
    assert said == {suffix for source in formats.SOURCES for suffix in source.suffixes}


COMMAND_LINES = [
    line
    for block in blocks("bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("beam-kmeans ")
]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_the_commands_are_accepted(line):
    args = cli._parse(shlex.split(line)[1:])
    assert args.command in flags.COMMANDS


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([\w-]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize("code", blocks("python"), ids=["laptop", "in_memory", "pipeline"])
def test_the_python_code_runs(code, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists()
