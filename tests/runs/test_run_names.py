"""Names of run folders that hold signs of a pattern."""

from pathlib import Path

import pytest

from pathline.runs.folder import SETTINGS, fresh, newest_run


@pytest.mark.parametrize("name", ["photos [2024]", "all*", "who?", "[!a]"])
def test_a_name_with_signs_of_a_pattern_is_numbered_and_found_again(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [fresh(name, None) for _ in range(2)]
    assert folders == [Path("runs", f"{name}-1"), Path("runs", f"{name}-2")]
    for folder in folders:
        (folder / SETTINGS).write_text("")
    assert newest_run(name) in folders
    assert newest_run(None) in folders
    with pytest.raises(ValueError, match="no photos run"):
        newest_run("photos")


def test_latest_is_a_run_of_any_name_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = fresh("digits", Path("runs/first"))
    (folder / SETTINGS).write_text("")
    assert newest_run(None) == folder
