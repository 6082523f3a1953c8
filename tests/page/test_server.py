"""`attar serve`: this machine only, its own page only, the files it named only, and those as they were measured."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.errors import AttarError
from attar.page.rows import Said
from attar.server import LARGEST, Server
from page.served import TEXT, write_page, write_run


class Visit:
    """Requests as a browser, or somebody else, sends them."""

    def __init__(self, server: Server, run: Path) -> None:
        self.server, self.run = server, run

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=120)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if body is None else "POST", path, body, sent)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content, {name.lower(): value for name, value in answer.getheaders()}

    def told(self, path: str) -> Any:
        status, content, _ = self.ask(path)
        assert status == 200, content
        return json.loads(content)

    def error(self, path: str, status: int, body: bytes | None = None, **headers: str) -> str:
        found, content, _ = self.ask(path, body, **headers)
        assert found == status, content
        return str(json.loads(content)["error"])


@pytest.fixture(autouse=True)
def _built(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_page(tmp_path_factory.mktemp("built"))
    monkeypatch.setattr("attar.server.built_page", lambda: page)


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[Visit]:
    write_run(tmp_path / "made")
    with Server(tmp_path / "made", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Visit(server, tmp_path / "made")
        server.shutdown()
        thread.join()


def test_the_page_is_told_what_it_needs(visit: Visit) -> None:
    runs = visit.told("/runs.json")
    assert [run["name"] for run in runs["runs"]] == ["made"]
    assert "smaller, keeping" in runs["runs"][0]["headline"]
    assert runs["gpu"] is True
    page = visit.told("/runs/made/page.json")
    (student,) = page["students"]
    assert student["name"] == "onnx-int8"
    assert student["reader"]["limit"] == 48, "the least of the recipe's, the tokenizer's and the model's"
    assert page["watts"][0] < page["watts"][1]
    assert page["teacher"]["asked"] == "live"
    status, model, headers = visit.ask(f"/runs/made/{student['model']['path']}")
    assert (status, len(model)) == (200, student["model"]["bytes"])
    assert headers["cache-control"] == "no-store"


def test_the_page_is_isolated_and_allows_nothing_from_elsewhere(visit: Visit) -> None:
    status, content, headers = visit.ask("/")
    assert (status, content) == (200, b"<!doctype html><title>attar</title>")
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "http" not in headers["content-security-policy"]
    assert "immutable" in visit.ask("/assets/page.js")[2]["cache-control"]
    assert visit.ask("/assets/page.js")[2]["content-type"] == "text/javascript"
    assert "style-src" not in visit.ask("/runs/made/report.html")[2]["content-security-policy"]


def test_it_listens_on_the_loopback_alone(visit: Visit) -> None:
    assert visit.server.server_address[0] == "127.0.0.1"
    assert visit.server.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:{port}", ""])
def test_another_host_name_is_refused(visit: Visit, host: str) -> None:
    told = visit.error("/runs.json", 421, Host=host.format(port=visit.server.server_port))
    assert visit.server.url in told


def test_its_own_names_are_served(visit: Visit) -> None:
    for name in ("127.0.0.1", "localhost"):
        own = f"{name}:{visit.server.server_port}"
        assert visit.ask("/runs.json", Host=own, Origin=f"http://{own}", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_a_request_from_another_origin_is_refused(visit: Visit, origin: str) -> None:
    sent = origin.format(port=visit.server.server_port)
    assert "may not ask this server" in visit.error("/runs.json", 403, Origin=sent)
    assert "may not ask this server" in visit.error("/runs/made/teacher", 403, b"{}", Origin=sent)


def test_another_site_may_link_to_the_page_but_not_use_it(visit: Visit) -> None:
    assert visit.ask("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document")[0] == 200
    for use in ("iframe", "image", "empty", "script"):
        visit.error("/", 403, Sec_Fetch_Site="cross-site", Sec_Fetch_Dest=use)


@pytest.mark.parametrize(
    "path",
    [
        "/../run.json", "/runs/made/run.json", "/runs/made/recipe.yaml", "/runs/made/../made/run.json",
        "/runs/made/..%2f..%2fsecret", "/runs/made/%2e%2e/%2e%2e/secret", "/runs/made//etc/passwd",
        "/runs/made/export/onnx-int8/../../run.json", "/runs/../secret", "/..%5csecret", "/runs/%2e%2e/page.json",
        "/runs/made/export/onnx-int8/config.json", "/assets/../../secret", "/nothing",
    ],
)  # fmt: skip
def test_only_files_that_it_named_are_served(visit: Visit, path: str) -> None:
    (visit.run.parent / "secret").write_text("secret")
    status, content, _ = visit.ask(path)
    assert status == 404, content
    assert b"secret" not in content or b"is not a file" in content or b"there is no run" in content


def test_a_link_out_of_the_run_is_not_followed(visit: Visit, tmp_path: Path) -> None:
    model = visit.run / "export" / "onnx-int8" / "model.onnx"
    model.rename(tmp_path / "elsewhere.onnx")
    model.symlink_to(tmp_path / "elsewhere.onnx")
    assert "was changed" in visit.error("/runs/made/export/onnx-int8/model.onnx", 409)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_was_edited_is_refused(visit: Visit, name: str) -> None:
    file = visit.run / "export" / "onnx-int8" / name
    path = f"/runs/made/export/onnx-int8/{name}"
    assert visit.ask(path)[0] == 200
    file.write_bytes(file.read_bytes().replace(b"w", b"v") + b" ")
    for asked in (path, "/runs/made/page.json"):
        told = visit.error(asked, 409)
        assert "not as run.json has it" in told
        assert "attar distill" in told
    with pytest.raises(AttarError, match=r"run\.json"):
        Server(visit.run, 0)


def test_an_edited_run_is_listed_with_its_reason_and_the_others_are_served(visit: Visit) -> None:
    write_run(visit.run.parent / "other")
    (visit.run / "export" / "onnx-int8" / "model.onnx").write_bytes(b"edited")
    (visit.run.parent / "broken").mkdir()
    (visit.run.parent / "broken" / "run.json").write_text("{")
    with Server(visit.run.parent, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        many = Visit(server, visit.run)
        listed = {run["name"]: run["problem"] for run in many.told("/runs.json")["runs"]}
        assert many.told("/runs/other/page.json")["students"]
        assert "not as run.json has it" in many.error("/runs/made/page.json", 409)
        server.shutdown()
        thread.join()
    assert listed["other"] is None
    assert "not as run.json has it" in listed["made"]
    assert "is not JSON" in listed["broken"]


def test_the_teacher_answers_rows_and_says_what_is_wrong_with_others(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Teacher:
        def answer(self, row: Any) -> Said:
            assert row.text == TEXT
            return Said(values=[0.25, 0.75], milliseconds=2.0, cpu_seconds=0.004)

    monkeypatch.setattr(visit.server, "teacher", lambda folder: Teacher())
    status, content, _ = visit.ask("/runs/made/teacher", json.dumps({"text": TEXT}).encode())
    assert status == 200
    assert json.loads(content)["values"] == [0.25, 0.75]
    assert "not one that the page sends" in visit.error("/runs/made/teacher", 400, b'{"path": "/etc/passwd"}')
    assert "not one that the page sends" in visit.error("/runs/made/teacher", 400, b"no JSON")
    assert "8 MB" in visit.error("/runs/made/teacher", 413, b"", Content_Length=str(LARGEST + 1))
    assert "there is no run" in visit.error("/runs/nobody/teacher", 404, b"{}")


def test_a_teacher_that_is_gone_is_told(visit: Visit) -> None:
    told = visit.error("/runs/made/teacher", 409, json.dumps({"text": TEXT}).encode())
    assert "some/model" in told


def test_a_port_in_use_is_named_with_the_next_step(tmp_path: Path) -> None:
    write_run(tmp_path / "made")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AttarError, match=rf"port {port} of 127\.0\.0\.1 is in use .*--port"):
            Server(tmp_path / "made", port)


def test_a_folder_without_runs_and_a_page_that_is_not_built_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AttarError, match="holds no finished run"):
        Server(tmp_path, 0)
    with pytest.raises(AttarError, match="no such folder"):
        Server(tmp_path / "nowhere", 0)
    monkeypatch.undo()
    monkeypatch.setattr("attar.page.built.files", lambda name: tmp_path)
    with pytest.raises(AttarError, match="make web"):
        Server(tmp_path, 0)
