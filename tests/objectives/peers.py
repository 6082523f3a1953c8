"""Peers' losses, called as ours are. They are imported when called: they take seconds."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

PATHS = {"student_module_path": "s", "student_module_io": "io", "teacher_module_path": "t", "teacher_module_io": "io"}


def trl(name: str) -> ModuleType:
    """A module of TRL, without its word on experiments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        return import_module(f"trl.{name}")


def piece(file: str, name: str, **known: Any) -> Any:
    """The function or class `name` (`Class.method` for one method) out of the source of a file of TRL, with torch and
    `known` at hand, and without the trainers around it.
    """
    space = {"torch": torch, "nn": nn, "F": functional, "GOLDConfig": Any} | known
    exec(_compiled(file, name), space)
    return space[name.split(".")[-1]]


@cache
def _compiled(file: str, name: str) -> CodeType:
    path = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / file
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = next(node for node in body if getattr(node, "name", None) == part)
        body = getattr(found, "body", [])
    found.decorator_list = []
    return compile(ast.fix_missing_locations(ast.Module([found], type_ignores=[])), str(path), "exec")


def torchdistill(
    name: str, student: Tensor, teacher: Tensor, labels: Tensor | None = None, **options: object
) -> Tensor:
    """A loss of torchdistill on logits."""
    loss = getattr(import_module("torchdistill.losses.mid_level"), name)(**PATHS, **options)
    return loss({"s": {"io": student}}, {"t": {"io": teacher}}, labels)


def dkd_of_the_authors(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, t: float) -> Tensor:
    """DKD as its authors compute it (arXiv:2203.08679): probabilities, and -1000 on the label's logit."""
    hot = functional.one_hot(labels, student.shape[-1])
    q, p = (student / t).softmax(-1), (teacher / t).softmax(-1)
    sure_q, sure_p = (torch.stack(((x * hot).sum(-1), (x * (1 - hot)).sum(-1)), -1) for x in (q, p))
    rest_q, rest_p = (student / t - 1000 * hot).log_softmax(-1), (teacher / t - 1000 * hot).softmax(-1)
    parts = (functional.kl_div(x, y, reduction="batchmean") for x, y in ((sure_q.log(), sure_p), (rest_q, rest_p)))
    return t**2 * sum(weight * part for weight, part in zip((alpha, beta), parts, strict=True))
