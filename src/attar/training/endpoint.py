"""Answers by a teacher that vLLM serves: token ids in and out over HTTP, and everything that was written is kept.

The server is asked by OpenAI's protocol with vLLM's `return_token_ids`, which SGLang has too. A server of this kind
holds fixed weights: it can serve a teacher, never the student in training, whose weights change with each step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from attar.errors import MissingExtra, TrainingError
from attar.recipe.rollouts import RolloutsSpec
from attar.storage import atomic_write, guard
from attar.training.callbacks import read_lines
from attar.training.writers import Prompt, seed_of

_PAUSES = (0.0, 1.0, 5.0)
"""Seconds before each attempt."""
_PATIENCE = 600.0
"""Seconds that an answer may take."""
_SHOWN = 200
_WRITTEN = "written-"


class Kept:
    """What was written in a training, on disk line by line: a resumed or repeated run learns from the same answers.

    `files` may hold those of several processes; `own` is the one that is added to.
    """

    def __init__(self, own: Path, files: Sequence[Path]) -> None:
        self.own = own
        self._known: dict[tuple[int, int], list[int]] = {}
        for file in files:
            lines = read_lines(file)
            self._known |= {(line["epoch"], line["row"]): line["ids"] for line in lines}
            if file == own:
                atomic_write(own, "".join(json.dumps(line) + "\n" for line in lines))  # the last may be half a line

    @classmethod
    def of(cls, folder: Path, key: str, rank: int) -> Kept:
        """Of the training with this key, in its folder; what other trainings left there goes."""
        stem = f"{_WRITTEN}{key[:16]}-"
        for file in folder.glob(f"{_WRITTEN}*.jsonl"):
            if rank == 0 and not file.name.startswith(stem):
                file.unlink(missing_ok=True)
        return cls(folder / f"{stem}{rank}.jsonl", sorted(folder.glob(f"{stem}*.jsonl")))

    def __len__(self) -> int:
        return len(self._known)

    def get(self, epoch: int, row: int) -> list[int] | None:
        """What was written to this prompt in this epoch."""
        return self._known.get((epoch, row))

    def add(self, epoch: int, answers: dict[int, list[int]]) -> None:
        """Write these down, by row."""
        lines = [json.dumps({"epoch": epoch, "row": row, "ids": ids}) + "\n" for row, ids in answers.items()]
        with guard(self.own), self.own.open("a", encoding="utf-8") as stream:
            stream.write("".join(lines))
        self._known |= {(epoch, row): ids for row, ids in answers.items()}


class EndpointWriter:
    """A `Writer` that asks the server for what is not kept yet.

    `width` is the number of tokens that the student knows. Raises MissingExtra without httpx2, and TrainingError where
    the server does not answer, does not have the model, or answers with other than token ids; at once, not when the
    first answer is wanted.
    """

    def __init__(self, spec: RolloutsSpec, kept: Kept, ends: tuple[int, ...], seed: int, width: int) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingExtra("httpx2", "api", "rollouts.source: vllm") from error
        self.spec, self.kept, self.ends, self.seed, self.width = spec, kept, ends, seed, width
        self._failed: type[Exception] = httpx2.HTTPError
        self._client = cast("_Client", httpx2.Client(timeout=_PATIENCE))
        self.url = str(spec.url).rstrip("/").removesuffix("/v1") + "/v1/"
        self._require_model()

    def __call__(self, prompts: Sequence[Prompt], epoch: int) -> list[list[int]]:
        """One request, of the prompts that were not answered before."""
        asked = [prompt for prompt in prompts if self.kept.get(epoch, prompt.row) is None]
        if asked:
            answers = self._asked(asked, seed_of(self.seed, epoch, asked))
            self.kept.add(epoch, {prompt.row: ids for prompt, ids in zip(asked, answers, strict=True)})
        return [self.kept.get(epoch, prompt.row) or [] for prompt in prompts]

    def _require_model(self) -> None:
        told = self._ask("GET", "models", None).get("data", [])
        names = [str(one.get("id")) for one in cast("list[dict[str, Any]]", told)]
        if self.spec.model not in names:
            raise TrainingError(
                f'rollouts.model: {self.url} has no "{self.spec.model}". It serves {", ".join(names) or "nothing"}. '
                "Set rollouts.model to the teacher's name there, or start the server with --served-model-name."
            )

    def _asked(self, prompts: Sequence[Prompt], seed: int) -> list[list[int]]:
        spec = self.spec
        wanted = {
            "model": spec.model, "prompt": [prompt.ids.tolist() for prompt in prompts], "n": 1,
            "max_tokens": max(prompt.room for prompt in prompts), "temperature": spec.temperature,
            "top_p": spec.top_p, "seed": seed, "return_token_ids": True,
        }  # fmt: skip
        choices = cast("list[dict[str, Any]]", self._ask("POST", "completions", wanted).get("choices", []))
        by_place = {int(choice["index"]): choice for choice in choices if "index" in choice}
        if sorted(by_place) != list(range(len(prompts))):
            raise self._stopped(f"answered {len(prompts)} prompts with {len(by_place)} texts", "Look into its log")
        return [self._ids(by_place[at], prompt) for at, prompt in enumerate(prompts)]

    def _ids(self, choice: dict[str, Any], prompt: Prompt) -> list[int]:
        ids, seen = choice.get("token_ids"), choice.get("prompt_token_ids")
        if not isinstance(ids, list):
            raise self._stopped(
                "gives no token ids, and a text that is cut into tokens again is not what was sampled",
                "Serve the teacher by vLLM 0.10.2 or later",
            )
        written = cast("list[int]", ids)
        unknown = [index for index in written if not 0 <= index < self.width]
        if unknown or (seen is not None and seen != prompt.ids.tolist()):
            what = f"wrote token {unknown[0]}" if unknown else "read another prompt than it was given"
            raise self._stopped(
                f"{what}: it has another tokenizer than the student ({self.width} tokens)", "Serve the recipe's teacher"
            )
        return written

    def _ask(self, method: str, path: str, content: dict[str, Any] | None) -> dict[str, Any]:
        """Ask until there is an answer, a few times."""
        cause = ""
        for pause in _PAUSES:
            time.sleep(pause)
            try:
                answer = self._client.request(method, self.url + path, json=content)
            except self._failed as error:
                cause = f"does not answer ({type(error).__name__}: {error})"
                continue
            if answer.status_code < 400:
                return self._read(answer.text)
            cause = f"refuses with {answer.status_code}: {answer.text[:_SHOWN]}"
            if answer.status_code < 500:
                break
        raise self._stopped(cause, "See that it runs and is reached from here")

    def _read(self, text: str) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", json.loads(text))
        except ValueError as error:
            raise self._stopped(f"answers with no JSON: {text[:_SHOWN]}", "Is this vLLM's address?") from error

    def _stopped(self, what: str, advice: str) -> TrainingError:
        kept = f" {len(self.kept):,} answers are kept in {self.kept.own.parent}." if len(self.kept) else ""
        end = "" if advice.endswith("?") else "."
        return TrainingError(
            f"rollouts.url: {self.url} {what.rstrip('.')}. {advice}{end}{kept} The same command goes on from there."
        )


class _Answer(Protocol):
    status_code: int
    text: str


class _Client(Protocol):
    def request(self, method: str, url: str, *, json: Any) -> _Answer: ...
