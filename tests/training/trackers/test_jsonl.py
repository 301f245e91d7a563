"""metrics.jsonl keeps what happened; whatever another tracker does, training goes on."""

import io

import pytest

from pathline.training.trackers.jsonl import METRICS, Tracker, jsonl, lines, together


def nothing(*_):
    """A tracker's function that does nothing."""


def recording(seen, *, fails_at=None, error=RuntimeError):
    def numbers(update, images, values):
        if update == fails_at:
            raise error("no more room")
        seen.append((update, images, dict(values)))

    return Tracker(numbers, lambda *given: seen.append(given), lambda: seen.append("closed"))


def test_a_resumed_run_drops_the_lines_it_will_write_again(tmp_path):
    track = jsonl(tmp_path / METRICS)
    for update in range(1, 6):
        track(update, update * 8, {"loss": 1 / update})
    with (tmp_path / METRICS).open("a") as stream:
        stream.write('{"update": 6, "ima')  # cut by a kill
    again = jsonl(tmp_path / METRICS, resumed_at=3)
    again(4, 32, {"loss": 0.5})
    found = list(lines(tmp_path / METRICS))
    assert [line["update"] for line in found] == [1, 2, 3, 4]
    assert found[2] == {"update": 3, "images": 24, "loss": 1 / 3}  # to the last bit
    assert found[3]["loss"] == 0.5


def test_lines_that_are_none_are_passed_over(tmp_path):
    file = tmp_path / METRICS
    file.write_text('{"update": 1, "loss": NaN}\n[]\n7\nnot json\n{"images": 3}\n{"update": 2}\n')
    warnings = []
    assert [line["update"] for line in lines(file, warnings.append)] == [1, 2]
    assert [text.removeprefix(f"{file}:")[0] for text in warnings] == ["2", "3", "4", "5"]


def test_a_line_that_is_no_text_is_named_and_the_others_are_read(tmp_path):
    file, warnings = tmp_path / METRICS, []
    file.write_bytes(b'{"update": 1}\n{"update": 2, "\xe9\xff": 1}\n{"update": 3}\n')
    jsonl(file, resumed_at=9, warn=warnings.append)
    assert [line["update"] for line in lines(file, pytest.fail)] == [1, 3]
    assert warnings == [f"{file}:2: this line can't be read and is left out"]


def test_an_absent_file_has_no_lines(tmp_path):
    assert list(lines(tmp_path / "absent")) == []


def test_a_failing_tracker_is_told_of_and_left_out(tmp_path):
    good, bad, told = [], [], []
    openers = {"bad": lambda: recording(bad, fails_at=2), "good": lambda: recording(good)}
    tracker = together(tmp_path, openers, told.append)
    for update in (1, 2, 3):
        tracker.numbers(update, update, {"loss": 1.0})
    tracker.picture(3, "samples/fixed", tmp_path / "grid.png")
    tracker.close()
    assert told == ["tracker bad: RuntimeError: no more room; left out from here on"]
    assert bad == [(1, 1, {"loss": 1.0})]
    assert [each[0] for each in good[:3]] == [1, 2, 3]
    assert good[3:] == [(3, "samples/fixed", tmp_path / "grid.png"), "closed"]
    assert len(list(lines(tmp_path / METRICS))) == 3


def test_one_that_cannot_be_opened_is_told_of(tmp_path):
    def broken():
        raise OSError("no such thing")

    told = []
    together(tmp_path, {"broken": broken}, told.append).numbers(1, 1, {"loss": 1.0})
    assert told == ["tracker broken: OSError: no such thing; left out"]
    assert len(list(lines(tmp_path / METRICS))) == 1


def test_the_record_is_tried_again_when_the_disk_has_room_again(tmp_path):
    told = []
    tracker = together(tmp_path, {}, told.append)
    (tmp_path / METRICS).mkdir()  # in the place of a full disk
    tracker.numbers(1, 8, {"loss": 1.0})
    (tmp_path / METRICS).rmdir()
    tracker.numbers(2, 16, {"loss": 1.0})
    assert len(told) == 1
    assert "tracker jsonl: IsADirectoryError" in told[0]
    assert "1 lines wait for the next try" in told[0]
    assert [line["update"] for line in lines(tmp_path / METRICS)] == [1, 2]


def test_lines_that_never_reach_the_disk_are_an_error_at_the_end(tmp_path):
    tracker = together(tmp_path, {}, lambda _: None)
    (tmp_path / METRICS).mkdir()
    tracker.numbers(1, 8, {"loss": 1.0})
    with pytest.raises(OSError, match=METRICS):
        tracker.close()


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    """A full disk takes a part of a line; the next line must not be glued to it."""
    from pathline.training.trackers import jsonl as module

    file = tmp_path / METRICS
    track = jsonl(file)
    track(1, 8, {"loss": 1.0})

    class Full(io.FileIO):
        def write(self, data):
            return super().write(data[:5])

    monkeypatch.setattr(module.Path, "open", lambda self, *_, **__: Full(self, "a"))
    with pytest.raises(OSError, match=r"metrics.jsonl can't be written because the disk is full"):
        track(2, 16, {"loss": 1.0})
    monkeypatch.undo()
    track(3, 24, {"loss": 1.0})
    assert [line["update"] for line in lines(file, pytest.fail)] == [1, 3]


def test_ctrl_c_is_no_failure_of_a_tracker(tmp_path):
    openers = {"slow": lambda: recording([], fails_at=1, error=KeyboardInterrupt)}
    tracker = together(tmp_path, openers, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        tracker.numbers(1, 8, {"loss": 1.0})
