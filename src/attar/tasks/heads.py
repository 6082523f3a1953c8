"""What text and image classification share: models with a head for given labels, loaded or built, and label arrays.

Weights are read from safetensors. Where a folder holds only a pickle (`pytorch_model.bin`), torch's restricted
unpickler reads it, which runs no code of the file; what that refuses is a TeacherError.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from attar.errors import PlanError, TeacherError
from attar.recipe.nearest import did_you_mean
from attar.tasks.base import NO_LABEL, Problem

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_PROBLEM_TYPES: dict[Problem, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def head_fields(labels: tuple[str, ...], problem: Problem) -> dict[str, Any]:
    """Configuration fields of a head: label names by id and the kind of target."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
        "problem_type": _PROBLEM_TYPES[problem],
    }


def load_with_head(
    auto: Any, source: str | Path, fields: Mapping[str, Any] | None, *, trust_remote_code: bool, revision: str | None
) -> nn.Module:
    """A model of the class that `auto` picks, float32, in eval mode.

    `fields` None: the checkpoint's own head, which must be there; else a fresh head with these configuration fields
    (torch's global generator initialises it). Raises TeacherError.
    """
    settings: dict[str, Any] = {} if fields is None else {**fields, "ignore_mismatched_sizes": True}
    try:
        model, info = auto.from_pretrained(
            str(source),
            trust_remote_code=trust_remote_code,
            revision=revision or "main",
            dtype=torch.float32,
            output_loading_info=True,
            **settings,
        )
    except Exception as error:  # Transformers, torch, safetensors and the Hub client raise many unrelated types
        raise TeacherError(_why_not(source, error)) from error
    missing = sorted(info["missing_keys"])
    if fields is None and missing:
        raise TeacherError(
            f"model {source}: the checkpoint has no weights for {', '.join(missing[:4])}: it has no head for this "
            "task. Use fit: probe or fit: full, or a checkpoint that was trained for classification."
        )
    return cast("nn.Module", model).eval()


def _why_not(source: str | Path, error: Exception) -> str:
    folder = Path(source)
    cause = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    pickles = sorted(p for pattern in _PICKLES for p in folder.glob(pattern)) if folder.is_dir() else []
    if pickles and not any(folder.glob("*.safetensors")):
        return (
            f"{pickles[0]}: the pickle cannot be read without running code that it may hold, so it was not read "
            f"({cause}). Ask for the weights as safetensors, or convert them yourself on a machine that you can lose."
        )
    if folder.is_dir():
        return f"model {source}: cannot be loaded: {cause}. Check config.json and the weights in that folder."
    return (
        f'model "{source}": cannot be loaded from the Hugging Face Hub: {cause}. Check the name and the network; '
        "offline, set ATTAR_MIRROR to a folder that holds it, or give the path of a local folder."
    )


def config_of(config: Mapping[str, Any], fields: Mapping[str, Any]) -> PreTrainedConfig:
    """A Transformers configuration from a recipe's `config` and a head's fields. Raises PlanError on unknown names."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        names = list(CONFIG_MAPPING.keys())
        raise PlanError(
            f"config.model_type: {model_type!r} is not a model type of the installed Transformers."
            f"{did_you_mean(str(model_type), names)}"
        )
    given = {name: value for name, value in config.items() if name != "model_type"}
    kind = CONFIG_MAPPING[model_type]
    known = {*kind().to_dict(), *kind.attribute_map, *getattr(kind, "__dataclass_fields__", ())}
    unknown = [name for name in given if name not in known]
    if unknown:
        told = ", ".join(f'"{name}"{did_you_mean(name, known)}' for name in unknown)
        raise PlanError(f"config: {model_type} has no such fields: {told}")
    try:
        return AutoConfig.for_model(model_type, **{**given, **fields})
    except Exception as error:  # every configuration class checks in its own way
        raise PlanError(f"config: {model_type} refuses these fields: {error}") from error


def build_with_head(auto: Any, config: Mapping[str, Any], fields: Mapping[str, Any]) -> nn.Module:
    """An untrained model in eval mode; torch's global generator initialises it. Raises PlanError."""
    made = config_of(config, fields)
    try:
        return cast("nn.Module", auto.from_config(made, dtype=torch.float32)).eval()
    except (ValueError, RuntimeError, TypeError) as error:
        raise PlanError(f"config: no {made.model_type} model can be built from this: {error}") from error


def label_array(rows: Dataset, problem: Problem, outputs: int) -> np.ndarray:
    """Labels as in `Encoded`; all absent where the rows have no column `label`."""
    count = len(rows)
    if "label" not in rows.column_names:
        values = None
    else:
        table = cast("Any", rows.select_columns(["label"]).with_format("arrow")[:])
        values = table.column(0).to_pylist()
    if problem == "single_label":
        return np.full(count, NO_LABEL, dtype=np.int64) if values is None else np.array(values, dtype=np.int64)
    if problem == "regression":
        return np.full(count, np.nan, dtype=np.float32) if values is None else np.array(values, dtype=np.float32)
    absent = np.full((count, outputs), np.nan, dtype=np.float32)
    if values is None or not count:
        return absent
    given = np.array(values, dtype=np.float32)
    # Data without labels does not know how many there are: its rows hold one NaN.
    return given if given.shape[1] == outputs or not np.isnan(given).all() else absent


METRICS: dict[Problem, str] = {"single_label": "accuracy", "multi_label": "micro_f1", "regression": "spearman"}
"""What `metric: auto` means."""
