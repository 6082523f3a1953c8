"""A tiny text task with teachers that fit it, and a tiny image task."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertModel

import tiny
from attar.recipe.task import ImageClassificationSpec, TextClassificationSpec
from attar.tasks import make_task
from attar.teachers.local import from_module
from teachers.tiny_texts import LABELS, rows


@pytest.fixture(scope="session")
def tokenizer():
    return tiny.tiny_tokenizer(rows(300)["text"])


@pytest.fixture(scope="session")
def task():
    return make_task(TextClassificationSpec(kind="text_classification", max_length=32), LABELS)


@pytest.fixture(scope="session")
def image_task():
    return make_task(ImageClassificationSpec(kind="image_classification", image_size=8), ("dark", "light"))


@pytest.fixture
def teacher(task, tokenizer):
    return from_module(tiny.tiny_bert(tokenizer, LABELS), tokenizer, task)


@pytest.fixture(scope="session")
def classifier_folder(tokenizer, tmp_path_factory) -> Path:
    return tiny.save(tiny.tiny_bert(tokenizer, LABELS), tokenizer, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def encoder_folder(tokenizer, tmp_path_factory) -> Path:
    body: BertModel = tiny.tiny_bert(tokenizer, LABELS).bert
    return tiny.save(body, tokenizer, tmp_path_factory.mktemp("encoder"))
