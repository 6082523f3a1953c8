"""The report in a real browser: it shows, it asks the network for nothing, it logs no error, it runs no script."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from attar.facts import RunFacts
from attar.report.html import render
from report.made import made_run
from report.test_html import hostile_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
)  # fmt: skip


@functools.cache
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"SKIPPED: none of {', '.join(BROWSERS)} is installed (`make browser`). The report was NOT opened.")
    return found


def opened(address: str, *flags: str) -> tuple[str, str]:
    """What the browser prints for an address, and what it logs."""
    with tempfile.TemporaryDirectory() as profile:
        command = [browser(), *FLAGS, f"--user-data-dir={profile}", *flags, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """The address of a report on the loopback, and every path that is asked for."""
    run: RunFacts = request.param
    asked: list[str] = []
    page = render(run).encode()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            asked.append(self.path)
            found = self.path == "/report.html"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page if found else b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/report.html", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("served", [made_run(), hostile_run()], ids=["plain", "hostile"], indirect=True)
def test_the_report_opens_in_a_browser(served: tuple[str, list[str]]) -> None:
    address, asked = served
    dom, console = opened(address, "--dump-dom")
    assert "smaller, keeping 98.9" in dom
    assert "<footer>" in dom
    assert console == ""
    assert set(asked) <= {"/report.html", "/favicon.ico"}
    assert "<script" not in dom


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_style_is_applied_in_light_and_dark(tmp_path: Path, width: int, dark: bool) -> None:
    page, shot = tmp_path / "report.html", tmp_path / "report.png"
    page.write_text(render(made_run()), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _, console = opened(page.as_uri(), scheme, f"--window-size={width},1200", f"--screenshot={shot}")
    assert console == ""
    with Image.open(shot) as image:
        assert image.size == (width, 1200)
        colours = image.convert("RGB").getcolors(1 << 20) or []
    paper = max(colours)[1]
    assert paper == ((23, 20, 19) if dark else (252, 251, 249))
    assert len(colours) > 50
