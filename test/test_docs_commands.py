"""What README and docs/ name is there: commands with their options, files, links with their sections, parameters."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shlex
from pathlib import Path

import pytest

from wildhands_ros.cli import main
from wildhands_ros.cli.commands import _parser
from wildhands_ros.node.parameters import parameter_table

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page.read_text() for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)


def commands(text: str) -> list[str]:
    """Whole `wildhands ...` commands, one a line, in blocks of code."""
    joined = re.sub(r"\\\n\s*", "", text)
    return re.findall(r"^(?:    )?(?:ros2 run wildhands_ros )?(wildhands [a-z].*)$", joined, re.M)


def mentioned(text: str) -> list[str]:
    """Parts of such commands within sentences and tables."""
    return re.findall(r"`(?:ros2 run wildhands_ros )?(wildhands [a-z][^`]*)`", FENCED.sub("", text))


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)[1:]


def slug(title: str) -> str:
    """A section's anchor, as GitHub makes it."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title.lower())
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def sections(text: str) -> set[str]:
    return {slug(title) for title in re.findall(r"^#+ +(.*?)\s*$", FENCED.sub("", text), re.M)}


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if commands(text)])
def test_commands_are_understood(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(PAGES[page]):
        try:
            _parser(words(command)).parse_args(words(command))
        except SystemExit as end:
            raise AssertionError(f"{command}: {capsys.readouterr().err}") from end
        for file in re.findall(r"\b(?:config|tools)/[\w/.]+", command):
            assert (ROOT / file).is_file(), command


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if mentioned(text)])
def test_mentioned_commands_have_these_options(page: str) -> None:
    for command in mentioned(PAGES[page]):
        text = io.StringIO()
        with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as end:
            main([*itertools.takewhile(lambda word: not word.startswith("-"), words(command)), "--help"])
        known = set(re.findall(r"--[a-z][\w-]*", text.getvalue()))
        assert end.value.code == 0 and {word for word in words(command) if word.startswith("--")} <= known, command


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if (ROOT / page).is_file() else ROOT / "docs"
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", PAGES[page])):
        if re.match(r"[a-z]+:", target):  # of the web
            continue
        path, _, section = target.partition("#")
        file = (folder / path).resolve() if path else folder / page
        assert file.exists() and file.is_relative_to(ROOT), target
        assert not section or section in sections(file.read_text()), target


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if "--ros-args" in text or "ros2 param" in text])
def test_parameters_in_commands_exist(page: str) -> None:
    named = re.findall(r"-p ([a-z_.]+):=|ros2 param [sg]et \S+ ([a-z_.]+)", PAGES[page])
    assert {first or second for first, second in named} <= {row.name for row in parameter_table()} | {"use_sim_time"}


def test_these_tests_find_what_they_look_for() -> None:
    text = "`wildhands eval --all`\n\n    wildhands run a.jpg \\\n        --focal 3 # b\n\n```\nwildhands doctor\n```\n"
    assert mentioned(text) == ["wildhands eval --all"]
    assert [words(command) for command in commands(text)] == [["run", "a.jpg", "--focal", "3"], ["doctor"]]
    assert sections("# A `b` (c), [d](e)!\n```\n# no\n```\n## Two words_x\n") == {"a-b-c-d", "two-words_x"}
    assert sum(len(commands(text)) for text in PAGES.values()) > 40
