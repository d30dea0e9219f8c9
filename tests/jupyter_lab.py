"""JupyterLab with one notebook in Chromium, as its test uses it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What asks other hosts, and what keeps cells that are out of sight out of the page.
SETTINGS = {
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "notebook-extension/tracker": {"windowingMode": "none"},
}
OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.token=",
    "--ServerApp.password=",
    "--LabApp.extension_manager=readonly",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.news_url=None",
)


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def server(folder, *, seconds=40):
    """Serve a folder by a JupyterLab without the user's settings, and give its address."""
    own = folder / "jupyter"
    for name, setting in SETTINGS.items():
        path = own / "config/lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(setting), encoding="utf-8")
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "IPYTHONDIR": "ipython"}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")},
        **{name: str(own / place) for name, place in places.items()},
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    command = [sys.executable, "-m", "jupyterlab", *OPTIONS, f"--ServerApp.port={_free_port()}"]
    with (folder / "server.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, f"--ServerApp.root_dir={folder}"],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield _address(process, own / "runtime", folder / "server.log", seconds)
        finally:
            # Asked to, it ends its kernels, which are in sessions of their own.
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _address(process, runtime, log, seconds):
    """Wait until the server has written where it is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        for found in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(json.JSONDecodeError):  # half written
                return json.loads(found.read_text(encoding="utf-8"))["url"]
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")


class Notebook:
    """A notebook of two cells, whose last one is written and run again and again."""

    def __init__(self, page, address, folder, first):
        cells = [
            {"cell_type": "code", "id": f"cell-{at}", "metadata": {}, "outputs": []}
            | {"execution_count": None, "source": source}
            for at, source in enumerate((first, ""))
        ]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        book = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4}
        path = folder / "book.ipynb"
        path.write_text(json.dumps({**book, "nbformat_minor": 5}), encoding="utf-8")
        self.page, self.asked = page, 0
        page.goto(f"{address}doc/tree/{path.name}")
        self.cells = page.locator(".jp-Notebook .jp-CodeCell")
        # Before there is a kernel, what runs a cell does nothing.
        page.get_by_text(" | Idle").wait_for()

    def run(self, at):
        """Run a cell, and wait until it has ended; return what it printed."""
        self.cells.nth(at).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        self.asked += 1
        prompt = self.cells.nth(at).locator(".jp-InputPrompt", has_text=f"[{self.asked}]:")
        prompt.wait_for()
        return self.cells.nth(at).locator(".jp-OutputArea").inner_text()

    def python(self, code):
        """Run a line in the last cell, and return what it printed."""
        self.cells.nth(1).locator(".cm-content").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(code)
        return self.run(1)
