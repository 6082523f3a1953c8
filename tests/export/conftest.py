"""A traced text classifier and a traced convolutional net, made once a file of tests."""

from __future__ import annotations

import pytest

from export.cases import Case, image_case, text_case


@pytest.fixture(scope="module")
def text() -> Case:
    return text_case()


@pytest.fixture(scope="module")
def image() -> Case:
    return image_case()
