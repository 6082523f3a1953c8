"""What whole runs of language models at tiny size share: a student, and the data, teacher and recipe of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_language import TEXTS, save_language_model, tiny_bpe, tiny_llama

STUDENT = {
    "kind": "from_config",
    "config": {
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True,
    },
    "vocabulary": {"keep": "all"},
}  # fmt: skip


def make(root: Path, *, chat: bool = False, **changes: Any) -> Path:
    """Data, teacher and recipe below `root`; returns the recipe's path."""
    tokenizer = tiny_bpe(chat=chat)
    save_language_model(root / "teacher", tiny_llama(tokenizer), tokenizer)
    rows = root / "rows"
    rows.mkdir()
    for split, texts in (("train", TEXTS[:40]), ("test", TEXTS[40:])):
        cells = [{"text": text.removeprefix("the "), "prompt": f"{number}?"} for number, text in enumerate(texts)]
        (rows / f"{split}.jsonl").write_text("\n".join(map(json.dumps, cells)), encoding="utf-8")
    fields = {
        "name": "tiny-language",
        "task": {"kind": "causal_lm", "max_length": 32},
        "teacher": {"kind": "local", "model": str(root / "teacher"), "licence": "apache-2.0"},
        "data": {"source": str(rows)},
        "student": STUDENT,
        "objectives": [{"kind": "forward_kl"}],
        "training": {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "evaluations": 2},
        "report": {"bootstrap": 100, "latency": False},
        **changes,
    }
    path = root / "recipe.yaml"
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path
