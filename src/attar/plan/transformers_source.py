"""What the installed Transformers knows, read from its source text: importing it would take seconds.

Names of model types, fields and defaults of a configuration class, and fields of TrainingArguments. Where the source
does not have the expected form the answer is None, and the check that needs it is left out.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

_PAIR = re.compile(r'^        \("([\w.-]+)", "(\w+)"\),?$', re.MULTILINE)


@cache
def _root() -> Path | None:
    spec = importlib.util.find_spec("transformers")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


@cache
def model_types() -> frozenset[str] | None:
    """Every `model_type` that the installed Transformers has a configuration for."""
    text = _read("models/auto/auto_mappings.py")
    if text is None:
        return None
    start = text.find("CONFIG_MAPPING_NAMES")
    names = _PAIR.findall(text[start : text.find("\n)", start)])
    return frozenset(name for name, _ in names) or None


@cache
def training_fields() -> dict[str, str] | None:
    """Fields of TrainingArguments with their annotations."""
    text = _read("training_args.py")
    return None if text is None else _annotations(text, "TrainingArguments")


@cache
def config_fields(model_type: str) -> dict[str, Any] | None:
    """Fields and defaults of a model type's configuration, common ones and renamed ones included.

    None where the class is not written as plain annotated fields. A default that is not a literal is None.
    """
    folder = model_type.replace("-", "_")
    text, common = _read(f"models/{folder}/configuration_{folder}.py"), _read("configuration_utils.py")
    if text is None or common is None:
        return None
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and _constant(node, "model_type") == model_type:
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            if not bases <= {"PreTrainedConfig", "BackboneConfigMixin"} or "__init__" in _functions(node):
                return None
            own = _defaults(node)
            renamed = _constant(node, "attribute_map") or {}
            shared = dict.fromkeys(_annotations(common, "PreTrainedConfig") or {}) | dict.fromkeys(_COMMON)
            return {**shared, **{name: own.get(target) for name, target in renamed.items()}, **own}
    return None


_COMMON = ("model_type", "num_labels", "id2label", "label2id", "attn_implementation", "torch_dtype", "architectures",
           "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "problem_type", "out_features",
           "out_indices", "layer_norm_eps")  # fmt: skip


def _read(path: str) -> str | None:
    root = _root()
    file = None if root is None else root / path
    return file.read_text(encoding="utf-8") if file is not None and file.is_file() else None


def _annotations(text: str, name: str) -> dict[str, str] | None:
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {
                field.target.id: ast.unparse(field.annotation)
                for field in node.body
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            }
    return None


def _defaults(node: ast.ClassDef) -> dict[str, Any]:
    return {
        field.target.id: None if field.value is None else _literal(field.value)
        for field in node.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and "ClassVar" not in ast.unparse(field.annotation)
    }


def _constant(node: ast.ClassDef, name: str) -> Any:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in statement.targets
        ):
            return _literal(statement.value)
    return None


def _functions(node: ast.ClassDef) -> set[str]:
    return {statement.name for statement in node.body if isinstance(statement, ast.FunctionDef)}


def _literal(value: ast.expr) -> Any:
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):
        left, right = _literal(value.left), _literal(value.right)
        return None if left is None or right is None else left * right
    try:
        return ast.literal_eval(value)
    except ValueError:
        return None
