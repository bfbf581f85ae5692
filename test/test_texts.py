"""What is said to people, with what others wrote in it."""

from __future__ import annotations

import logging
import struct
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wildhands_ros.cli.commands import run_command
from wildhands_ros.errors import ConfigError
from wildhands_ros.texts import log_to_terminal, printable
from wildhands_ros.yaml_files import read_yaml

FORGED = "rgb9'\n[INFO] [1700000000.0] [wildhands]: all is well\x1b[2J\x1b]0;owned\x07\r\u202e\u2028\x9b"


def test_what_terminals_obey_is_escaped() -> None:
    escaped = r"rgb9'\n[INFO] [1700000000.0] [wildhands]: all is well\x1b[2J\x1b]0;owned\x07\r\u202e\u2028\x9b"
    assert printable(FORGED) == escaped
    assert printable("/kamera_1/bild: 3 µm, …, 手") == "/kamera_1/bild: 3 µm, …, 手"
    assert printable("Bildschirmfoto 9.41\u202fPM.png") == "Bildschirmfoto 9.41\u202fPM.png"  # as macOS names them
    assert printable("x\udcff.jpg\0") == r"x\udcff.jpg\x00"


def test_lines_of_our_own_stay() -> None:
    text = 'report this:\n  File "a.py", line 1, in f\n    f()\n'
    assert printable(text) == text


@given(st.text())
def test_whatever_is_quoted_no_line_begins_with_it(text: str) -> None:
    lines = printable(f"said: {text}").split("\n")
    harmless = [c.isprintable() or unicodedata.category(c) == "Zs" for line in lines for c in line]
    assert all(harmless) and all(line.startswith("  ") or not line for line in lines[1:])


def test_the_command_line_says_it_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<I", len(value.encode())) + value.encode()

    channel = b"\1\0\0\0" + text("/" + FORGED) + text("cdr") + bytes(4)
    path = tmp_path / "x.mcap"
    path.write_bytes(b"\x89MCAP0\r\n" + struct.pack("<BQ", 4, len(channel)) + channel)
    assert run_command(["run", str(path), "--focal", "500"]) == 1
    said = capsys.readouterr().err
    assert r"[wildhands]: all is well\x1b[2J" in said and "\x1b" not in said
    assert all(line.startswith(("wildhands:", "WARNING:")) for line in said.splitlines())


def test_what_is_wrong_with_yaml_keeps_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    for text, lines in (("\tmin_score: 0.5\n", 5), ("a: 1\n---\nb: 2\n", 8)):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not YAML") as caught:
            read_yaml(path, ConfigError)
        assert len(printable(str(caught.value)).splitlines()) == lines


@pytest.mark.parametrize(
    "value",
    ["!!bool perhaps", "!!timestamp today", '!!int ""', '!!float ""', '"\\UFFFFFFFF"', ":".join(["1"] * 300) + ".0"],
)
def test_yaml_with_values_of_other_types_than_they_announce_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"min_score: {value}")
    with pytest.raises(ConfigError, match="settings.yaml is not YAML: one of its values"):
        read_yaml(path, ConfigError)


def test_programs_log_it_on_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging, "root", logging.RootLogger(logging.WARNING))
    log_to_terminal(logging.INFO)
    logging.info("topic %s", FORGED)
    assert capsys.readouterr().err == f"INFO: topic {printable(FORGED)}\n"
