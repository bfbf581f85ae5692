"""Which processor this is: for people, and as what a measured choice depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from wildhands_ros import processor

EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
flags\t\t: fpu avx2 avx512_bf16

processor\t: 1
model name\t: of another socket
"""


def test_a_processor_is_what_the_system_says_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(EPYC)
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    assert processor.processor_name() == "AMD EPYC"


@pytest.mark.parametrize(
    "change", [("avx512_bf16", "avx512_vnni"), ("family\t: 26", "family\t: 25"), ("\t: 2\n", "\t: 3\n")]
)
def test_processors_of_one_name_are_told_apart(
    change: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(EPYC)
    one = processor.processor_kind()
    (tmp_path / "cpuinfo").write_text(EPYC.replace("of another socket", "of a third"))
    assert processor.processor_kind() == one
    (tmp_path / "cpuinfo").write_text(EPYC.replace(*change))
    assert processor.processor_kind() != one


def test_where_the_system_says_nothing_the_machine_has_a_name_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "nothing")
    assert processor.processor_name() and processor.processor_kind()
