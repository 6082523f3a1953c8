"""A language model from a GGUF file, as plain Transformers parts in float32.

Files of the architecture `llama` are read by `gguf_llama`, all others by Transformers, where it can.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from attar.errors import AttarError, TeacherError
from attar.gguf_header import Header, damaged, read_header
from attar.teachers.gguf_llama import check_complete, read_llama
from attar.teachers.gguf_tokenizer import read_tokenizer, special_id
from attar.teachers.origin import quiet


def read_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer from one GGUF file, both free of anything that recalls GGUF.

    The model is float32, in eval mode, with gradients allowed; begin, end and padding ids stand in its configuration
    and generation configuration as the file has them (an end-of-turn token is a second end). The tokenizer has the
    file's chat template, and a `model_max_length` of the context that the file states.

    Raises TeacherError that names the file where it is absent, cut short, malformed or inconsistent, or of an
    architecture that cannot be read, and MissingExtra without the package `gguf`.
    """
    header = read_header(file)
    with _silence():
        try:
            tokenizer = read_tokenizer(header)
            model = read_llama(header) if header.architecture == "llama" else _by_transformers(header)
            _name_ends(model, header)
        except (AttarError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever numpy, tokenizers and Transformers make of a hostile file
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            raise damaged(file, reason) from error
    return model.eval(), tokenizer


@contextlib.contextmanager
def _silence() -> Generator[None]:
    """No progress bars, those of tqdm included."""
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        yield


def _name_ends(model: PreTrainedModel, header: Header) -> None:
    ids = {name: special_id(header, short) for name, short in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}
    for name, index in ids.items():
        setattr(model.config, f"{name}_token_id", index)
    generation = GenerationConfig.from_model_config(model.config)
    turn = special_id(header, "eot")
    if turn is not None and turn != ids["eos"]:
        generation.eos_token_id = [index for index in (ids["eos"], turn) if index is not None]
    model.generation_config = generation


def _by_transformers(header: Header) -> PreTrainedModel:
    """Transformers' reader knows some architectures more; in a folder of its own, see `gguf_tokenizer`."""
    layers = header.own("block_count", 1)
    if not isinstance(layers, int) or not 0 < layers <= len(header.tensors):
        raise damaged(header.file, f"it states {layers!r} layers, but has only {len(header.tensors)} tensors")
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "model.gguf").symlink_to(header.file.resolve())
            answer = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file="model.gguf",
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `check_complete` tells them
                local_files_only=True,
            )
        loaded, report = cast("tuple[PreTrainedModel, dict[str, Any]]", answer)
        check_complete(header, report)
        settings = loaded.config.to_dict()
        settings.pop("quantization_config", None)
        settings.pop("_name_or_path", None)
        model = type(loaded)(type(loaded.config)(**settings))
        model.load_state_dict(loaded.state_dict())
    except AttarError:
        raise
    except Exception as error:
        raise TeacherError(
            f'{header.file}: a GGUF file of the architecture "{header.architecture}", which cannot be read here '
            f"({type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}). Use the model's Transformers "
            "folder, or a model of the architecture llama."
        ) from error
    return model
