"""Tables in text are Markdown, whatever names stand in them."""

from __future__ import annotations

from wildhands_ros.tables import table


def test_cells_line_up_and_bars_in_them_divide_nothing() -> None:
    lines = table(["name", "mm"], [["a|b", "9.1"], ["plain", "10"]]).split("\n")
    assert lines == ["| name  |  mm |", "|-------|----:|", r"| a\|b  | 9.1 |", "| plain |  10 |"]
