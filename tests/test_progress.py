from kpdeform._progress import track


def test_a_progress_bar_is_shown_on_a_terminal_only(monkeypatch, capfd):
    assert list(track([1, 2], "thinning")) == [1, 2]
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as Rich takes any output for a terminal then
    assert list(track(iter([1, 2]), "thinning", 2)) == [1, 2]
    shown = capfd.readouterr()
    assert "thinning" in shown.err and "100%" in shown.err and shown.out == ""


def test_what_was_done_before_counts(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    steps = track([8, 9], "tiles", 10, completed=8)
    next(steps)
    assert list(steps) == [9]
    assert "80%" in capfd.readouterr().err
