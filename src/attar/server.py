"""`attar serve`: the local page. Loopback only; it answers its own page and nobody else's, and only files it named.

GET  /…                        the built page
GET  /runs.json                the list of runs
GET  /runs/NAME/page.json      what the browser needs to know of a run
GET  /runs/NAME/samples.json   rows to try
GET  /runs/NAME/report.html    the report
GET  /runs/NAME/PATH           a file that page.json names, if its hash is still the one of run.json
POST /runs/NAME/teacher        what the run's teacher says of a row
"""

from __future__ import annotations

import errno
import json
import mimetypes
import sys
import threading
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from attar.errors import AttarError, DataError
from attar.page.built import GPU, built_page, page_files
from attar.page.rows import read_asked
from attar.page.runs import REPORT, files_of, find_runs, listed, page_of, read_checked

LOOPBACK = "127.0.0.1"
PORT = 8760
LARGEST = 8 << 20
"""Bytes of a row that is sent to the teacher."""
_NAMES = (LOOPBACK, "localhost")
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}
_HEADERS = {
    # The two that give the page's worker threads; a page of another site can neither read nor embed anything.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; "
    "base-uri 'none'; form-action 'none'"
)
_REPORT_POLICY = "frame-ancestors 'self'"
"""The report brings its own policy, which allows no script and no request."""
_FOREVER = "public, max-age=31536000, immutable"


class Refused(Exception):
    """A request that is not answered, with its status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Server(ThreadingHTTPServer):
    """The page of some runs on the loopback. `serve_forever` answers; `url` is where."""

    daemon_threads = True

    def __init__(self, place: Path, port: int = PORT) -> None:
        """`port` 0: any that is free. Raises AttarError: no run, a changed file, no page, or the port is in use."""
        self.place = place
        self.static = built_page()
        runs = find_runs(place)
        if len(runs) == 1:
            page_of(next(iter(runs.values())))
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            what = "is in use by another program" if error.errno == errno.EADDRINUSE else "may not be used by you"
            raise AttarError(
                f"port {port} of {LOOPBACK} {what}. Choose another (--port {PORT + 1}), or let one be found (--port 0)."
            ) from None
        self._teachers: dict[Path, Any] = {}
        self.samples: Callable[[Path], bytes] = cache(_samples)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def teacher(self, folder: Path) -> Any:
        """A run's `RunTeacher`, the same for all who ask."""
        from attar.page.teacher import RunTeacher

        return self._teachers.setdefault(folder, RunTeacher(folder))

    def warm_up(self) -> None:
        """Load the only run's teacher beside the page, so that its first answer comes soon; errors are told later."""
        runs = list(find_runs(self.place).values())
        if len(runs) == 1:
            threading.Thread(target=self._load, args=(runs[0],), daemon=True).start()

    def _load(self, folder: Path) -> None:
        try:
            self.samples(folder)
            self.teacher(folder).load()
        except AttarError:
            pass  # told when the page asks

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "attar", ""
    timeout = 60

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: texts that people try stay with them."""

    def _answer(self, work: Callable[[list[str]], tuple[str, bytes]]) -> None:
        try:
            self._require_own()
            kind, content = work(unquote(urlsplit(self.path).path).strip("/").split("/"))
            self._send(200, kind, content)
        except Refused as error:
            self.close_connection = True  # its body, if any, was not read
            self._send(error.status, "application/json", _error(error))
        except DataError as error:
            self._send(400, "application/json", _error(error))
        except AttarError as error:  # a file was changed, or the teacher is gone
            self._send(409, "application/json", _error(error))

    def _require_own(self) -> None:
        """Only what asks this very address, from this very page: another site's page is refused."""
        own = {f"{name}:{self.server.server_port}" for name in _NAMES}
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in own:
            raise Refused(421, f"the host {host!r} is not served here; open {self.server.url}")
        if origin is not None and origin not in {f"http://{name}" for name in own}:
            raise Refused(403, f"a page of {origin} may not ask this server; open {self.server.url}")
        followed = self.headers.get("Sec-Fetch-Dest") == "document"  # a link to the page, which leaves the other site
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none") and not followed:
            raise Refused(403, f"another site's page may not ask this server; open {self.server.url}")

    def _get(self, parts: list[str]) -> tuple[str, bytes]:
        match parts:
            case ["runs.json"]:
                gpu = any(GPU in name for name in page_files(self.server.static))
                runs = [listed(name, folder).model_dump() for name, folder in find_runs(self.server.place).items()]
                return _json({"runs": runs, "gpu": gpu})
            case ["runs", name, "page.json"]:
                return _json(page_of(self._run(name)).model_dump(mode="json"))
            case ["runs", name, "samples.json"]:
                return "application/json", self.server.samples(self._run(name))
            case ["runs", name, "report.html"]:
                return "text/html; charset=utf-8", _bytes(self._run(name) / REPORT)
            case ["runs", name, *inner]:
                folder, path = self._run(name), "/".join(inner)
                file = files_of(page_of(folder)).get(path)
                if file is None:
                    raise Refused(404, f"{path!r} is not a file that this page serves")
                return _type(path), read_checked(folder, file)
            case _:
                path = "/".join(parts) or "index.html"
                file = page_files(self.server.static).get(path)
                if file is None:
                    raise Refused(404, f"{path!r} is not a file that this page serves")
                return _type(path), file.read_bytes()

    def _post(self, parts: list[str]) -> tuple[str, bytes]:
        body = self._body()
        match parts:
            case ["runs", name, "teacher"]:
                return _json(self.server.teacher(self._run(name)).answer(read_asked(body)).model_dump())
            case _:
                raise Refused(404, "only a run's teacher is asked by POST")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            raise Refused(413, f"a row may have {LARGEST >> 20} MB")
        return self.rfile.read(int(length))

    def _run(self, name: str) -> Path:
        found = find_runs(self.server.place).get(name)
        if found is None:
            raise Refused(404, f"there is no run {name!r} here")
        return found

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        policy = _REPORT_POLICY if self.path.endswith(f"/{REPORT}") else _POLICY
        self.send_header("Content-Security-Policy", policy)
        hashed = status == 200 and self.path.startswith(("/assets/", "/runtime/"))
        self.send_header("Cache-Control", _FOREVER if hashed else "no-store")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _samples(folder: Path) -> bytes:
    from attar.page.samples import samples_of

    return samples_of(folder).model_dump_json().encode()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise Refused(404, f"{file.name} is not there; `attar report` writes it again") from None


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def _error(error: Exception) -> bytes:
    return json.dumps({"error": str(error)}).encode()


def _type(path: str) -> str:
    suffix = Path(path).suffix
    return _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
