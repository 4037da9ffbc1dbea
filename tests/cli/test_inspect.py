"""The command ``kpdeform inspect``."""

import pytest

from tests.cli.test_command import command, refused  # noqa: F401
from tests.toy import write_toy_laz


def test_the_report_in_the_terminal(command, tmp_path, capsys):  # noqa: F811
    write_toy_laz(tmp_path / "a.laz", classes=3)
    write_toy_laz(tmp_path / "b.laz", classes=3)
    command("inspect", tmp_path)
    shown = capsys.readouterr().out
    for part in ("a.laz", "LAZ 1.4, point format 6", "all 2", "intensity", "ground", "no colour"):
        assert part in shown


def test_a_damaged_file_is_named_after_the_report_on_the_others(command, tmp_path, capsys):  # noqa: F811
    whole = write_toy_laz(tmp_path / "a.laz")
    (tmp_path / "b.laz").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "readme.txt").write_text("The numbers 1 2 3\nare no points.\n")
    line = refused(command, "inspect", tmp_path)
    assert "1 of 3 files cannot be read" in line and "b.laz" in line
    shown = capsys.readouterr()
    assert "a.laz" in shown.out and "warning: left out: " in shown.err


@pytest.mark.parametrize("arguments", [[], ["no_such_folder"], ["a.pdf"], ["x", "--lable", "y"]])
def test_mistakes_take_one_line(command, tmp_path, arguments):  # noqa: F811
    (tmp_path / "a.pdf").write_text("x")
    refused(command, "inspect", *arguments)
