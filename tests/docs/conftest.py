"""The site, built once for all tests, and served on this machine alone."""

import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from node import TOOLS, missing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site():
    """Return the folder of the pages; whichever process comes first builds them."""
    if not (TOOLS / "katex").exists():
        missing("KaTeX, which sets the formulas, is not there: `make lint` installs it")
    # In a process of its own: the warnings of what builds it are not ours.
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "build.py"],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.strip()).parent


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def served(site):
    """Return the address at which the site is served."""
    handler = functools.partial(_Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
