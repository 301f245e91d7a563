"""`pathline logging` reads runs in, follows them, and is to be seen from this machine only."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from PIL import Image

from pathline.recipes import logging as dashboards
from pathline.recipes.logging import follower, logging
from pathline.training.trackers import dashboards as boards
from pathline.training.trackers.jsonl import METRICS, Tracker, jsonl


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder as runs/dots-1."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "dots-1"
    (folder / "samples").mkdir(parents=True)
    jsonl(folder / METRICS)(1, 8, {"loss": 1.0, "gradient_norm": 2.0})
    Image.new("L", (12, 8), 200).save(folder / "samples" / "fixed-00000001.png")
    return folder


def test_a_run_is_followed_without_telling_anything_twice(run):
    told = []
    tracker = Tracker(lambda *n: told.append(n), lambda *p: told.append(p[:2]), lambda: None)
    read = follower(run, tracker)
    read()
    assert told == [(1, 8, {"loss": 1.0, "gradient_norm": 2.0}), (1, "samples/fixed")]
    read()
    assert len(told) == 2
    jsonl(run / METRICS, resumed_at=1)(2, 16, {"loss": 0.5})
    with (run / METRICS).open("a") as stream:
        stream.write('{"update": 3, "images"')  # is being written
    os.utime(run / METRICS, (1, 1))
    read()
    assert told[2:] == [(2, 16, {"loss": 0.5})]
    with (run / METRICS).open("a") as stream:
        stream.write(": 24}\n")
    read()
    assert told[3:] == [(3, 24, {})]


def test_nothing_to_show_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"No run under .*runs has a metrics.jsonl"):
        logging()
    with pytest.raises(ValueError, match="nothing was logged yet"):
        logging(tmp_path)


def test_a_missing_package_names_the_line_that_installs_it(run, monkeypatch):
    monkeypatch.setattr(dashboards, "installed", lambda _: False)
    with pytest.raises(ValueError, match=r"pip install 'pathline\[tensorboard\]'"):
        logging(run, backend="tensorboard")


def test_a_port_that_is_taken_is_said_or_gone_round():
    with socket.socket() as other:
        other.bind((dashboards.HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {taken} is taken"):
            dashboards._free_port(taken, 6006)
        assert dashboards._free_port(None, taken) > taken


@pytest.mark.slow
@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("backend", list(dashboards.BOARDS))
def test_it_serves_this_machine_and_ends_on_ctrl_c(backend, tmp_path):
    if not boards.installed(backend):
        pytest.skip(f"needs pip install 'pathline[{backend}]'")
    with socket.socket() as trial:
        trial.bind((dashboards.HOST, 0))
        port = trial.getsockname()[1]
    code = (
        "import sys; from pathline.recipes.logging import logging; "
        f"sys.exit(logging(backend={backend!r}, port={port}))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    served = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        assert answer(port) == 200
        with socket.socket() as other:  # 127.0.0.2 is this machine too, but not the server's
            assert other.connect_ex(("127.0.0.2", port)) == errno.ECONNREFUSED
        served.send_signal(signal.SIGINT)
        assert served.wait(20) == 0
    finally:
        served.kill()
    assert not list(tmp_path.glob("pathline-*"))


def answer(port, patience=60):
    """The status of the first page, once there is one."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                return page.status
        except OSError:
            time.sleep(0.3)
    return None
