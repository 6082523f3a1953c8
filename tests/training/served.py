"""A small HTTP server that plays vLLM's part of OpenAI's protocol: /v1/models and /v1/completions, token ids in and
out. It writes what a tiny model says, and can be told to misbehave.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import torch

from attar.generation import Sampling, write
from tiny_language import tiny_bpe, tiny_llama

TOKENIZER = tiny_bpe()
NAME = "the-teacher"


@dataclass
class Served:
    """The server's address, what it was asked, and how it is to fail."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    dies_after: int | None = None
    """It refuses everything after so many requests for texts."""
    status: int = 503
    change: Any = None
    """Applied to each choice."""


@contextmanager
def serving() -> Generator[Served]:
    model, end = tiny_llama(TOKENIZER), int(TOKENIZER.eos_token_id)
    state = Served("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"object": "list", "data": [{"id": NAME, "object": "model"}]}
            self.answer(200 if self.path == "/v1/models" else 404, found)

        def do_POST(self) -> None:
            wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/completions" or wanted["model"] != NAME or not wanted["return_token_ids"]:
                return self.answer(400, {"error": {"message": "unknown"}})
            if state.dies_after is not None and len(state.asked) >= state.dies_after:
                return self.answer(state.status, {"error": {"message": "out of order"}})
            state.asked.append(wanted)
            sampling = Sampling(wanted["temperature"], wanted["top_p"])
            torch.manual_seed(wanted["seed"])
            texts = write(
                model, wanted["prompt"], pad=end, ends=(end,), longest=wanted["max_tokens"], sampling=sampling
            )
            choices = [
                {"index": at, "text": "", "token_ids": ids, "prompt_token_ids": prompt,
                 "finish_reason": "stop" if ids[-1] == end else "length", "stop_reason": None}
                for at, (prompt, ids) in enumerate(zip(wanted["prompt"], texts, strict=True))
            ]  # fmt: skip
            if state.change is not None:
                choices = [state.change(choice) for choice in choices]
            return self.answer(200, {"id": "cmpl-1", "choices": choices[::-1]})

        def answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
