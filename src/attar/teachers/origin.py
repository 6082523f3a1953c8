"""From a name to a model folder on this disk that is safe to open: fetched, hashed, its weight files checked."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from attar.errors import MissingExtra, TeacherError
from attar.facts import SourceFacts
from attar.hashing import hash_file, hash_folder, hash_value
from attar.plan.checkpoint import LANGUAGE_HEADS
from attar.recipe.sources import find_source

_DOCUMENTS = ["*.json", "*.txt", "*.model", "*.jinja", "README.md", "1_Pooling/*"]
_HEADS = ("ForSequenceClassification", "ForImageClassification")


@dataclass(frozen=True)
class Origin:
    """A model folder, or a GGUF file, and where it came from."""

    folder: Path
    source: SourceFacts


def find_model(
    name: str, *, revision: str | None = None, licence: str | None = None, trust_remote_code: bool = False
) -> Origin:
    """Find a model by its recipe name; from the Hub it is fetched, safetensors first. Raises TeacherError."""
    found = find_source(name, "model")
    if found.kind == "timm":
        return _from_hub(_timm_repository(found.name), name, revision, licence, trust_remote_code)
    if found.kind == "python":
        raise TeacherError('teacher.model: "python" means a module handed over in Python, but none was.')
    if found.path is not None and found.path.suffix == ".gguf" and found.path.is_file():
        facts = SourceFacts(role="teacher", name=name, hash=hash_file(found.path), licence=licence)
        return Origin(found.path, facts)
    if found.kind == "file" and found.path is not None:
        raise _lone_file(found.path)
    if found.path is not None:
        return from_folder(found.path, name, licence)
    return _from_hub(found.name, name, revision, licence, trust_remote_code)


def from_folder(folder: Path, name: str, licence: str | None = None) -> Origin:
    """A local model folder under the name that the recipe gives it. Raises TeacherError where it holds no model."""
    if not (folder / "config.json").is_file():
        raise TeacherError(f"{folder}: no model folder (no config.json). Correct `teacher.model`.")
    check_weights(folder)
    return Origin(folder, SourceFacts(role="teacher", name=name, hash=hash_folder(folder), licence=licence))


def check_weights(folder: Path) -> None:
    """Make sure that the weights can be loaded without running code from them. Raises TeacherError that names the file.

    safetensors files hold no code. Pickles are opened with `weights_only=True` alone, once here, before anything else
    reads them.
    """
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if not pickles:
        raise TeacherError(f"{folder}: no weights (neither *.safetensors nor pytorch_model.bin).")
    for file in pickles:
        read_pickle(file)


def read_pickle(file: Path) -> Any:
    """Tensors of a PyTorch checkpoint, read with `weights_only=True`. Raises TeacherError."""
    try:
        with warnings.catch_warnings():  # about odd pickle protocols; what matters becomes an error
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise TeacherError(
            f"{file}: this checkpoint is a pickle with more than tensors in it, and may run code when it is loaded; "
            "it was "
            f"not loaded ({reason}). Convert it to safetensors where you trust it: load it there, then "
            "`model.save_pretrained(folder)`."
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise TeacherError(
            f"{file}: this checkpoint cannot be read ({error}). Fetch it again, or use safetensors."
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder. Raises TeacherError."""
    try:
        content = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise TeacherError(f"{folder / 'config.json'}: cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise TeacherError(f"{folder / 'config.json'}: is not a JSON object.")
    return content


def check_code(config: dict[str, Any], name: str, *, trust_remote_code: bool) -> None:
    """Raise TeacherError where a model needs code of its own, and the recipe does not allow to run it."""
    if trust_remote_code or "auto_map" not in config or config.get("model_type") in CONFIG_MAPPING:
        return
    code = ", ".join(sorted({str(value).split(".")[0] + ".py" for value in config["auto_map"].values()}))
    raise TeacherError(
        f"{name}: this model brings its own Python code ({code}), which was not run. Read it; if you trust it, set "
        "`teacher.trust_remote_code: true`."
    )


def has_head(config: dict[str, Any]) -> bool:
    """Whether a folder's model ends in a classification head (all of timm's do)."""
    architectures = config.get("architectures") or []
    return "architecture" in config or any(str(name).endswith(_HEADS) for name in architectures)


def writes(config: dict[str, Any]) -> bool:
    """Whether a folder's model is a causal language model."""
    return any(str(name).endswith(LANGUAGE_HEADS) for name in config.get("architectures") or [])


def own_labels(folder: Path) -> tuple[str, ...]:
    """Label names of a classifier's folder, in order; empty where it has no head. Raises TeacherError."""
    config = read_config(folder)
    if not has_head(config):
        return ()
    named = config.get("id2label") or config.get("label_names")
    if isinstance(named, dict):
        return tuple(str(named[i]) for i in sorted(named, key=int))
    if isinstance(named, list):
        return tuple(str(name) for name in named)
    count = config.get("num_classes") or config.get("num_labels") or 2
    return tuple(f"LABEL_{i}" for i in range(int(count)))


@contextmanager
def quiet() -> Generator[None]:
    """Keep Transformers' progress bars and load reports off the terminal while a model loads."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _lone_file(file: Path) -> TeacherError:
    if file.suffix != ".safetensors":
        read_pickle(file)
    return TeacherError(
        f"{file}: weights alone do not say which model they belong to. Name the folder with config.json beside them, "
        "or build "
        "the model in Python and hand it to attar.distill_models."
    )


def _from_hub(repository: str, name: str, revision: str | None, licence: str | None, trust_remote_code: bool) -> Origin:
    from huggingface_hub import snapshot_download

    code = ["*.py"] if trust_remote_code else []
    try:
        folder = Path(
            snapshot_download(repository, revision=revision, allow_patterns=[*_DOCUMENTS, *code, "*.safetensors"])
        )
        if not any(folder.glob("*.safetensors")):
            pickles = [*_DOCUMENTS, *code, "pytorch_model*"]
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=pickles))
    except (OSError, ValueError) as error:  # huggingface_hub's errors derive from these
        raise TeacherError(
            f"{name}: cannot be fetched from the Hub ({str(error).strip().splitlines()[0]}). Check the name, the "
            "revision "
            "and your access; offline, set ATTAR_MIRROR to a folder that holds it, or name a local folder."
        ) from None
    check_weights(folder)
    commit = folder.name
    facts = SourceFacts(
        role="teacher", name=name, revision=commit, hash=hash_value([repository, commit]), licence=licence
    )
    return Origin(folder, facts)


def _timm_repository(name: str) -> str:
    try:
        import timm
    except ImportError:
        raise MissingExtra("timm", "vision", "a timm teacher") from None

    try:
        settings = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise TeacherError(f"timm:{name}: {error}.") from None
    if settings is None or not settings.hf_hub_id:
        raise TeacherError(
            f"timm:{name}: timm has no pretrained weights of this name. `timm.list_pretrained()` lists them."
        )
    return str(settings.hf_hub_id)
