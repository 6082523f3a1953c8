"""What is cut out of a causal language model answers as the teacher would, had it lost the same parts."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig

from attar.errors import PlanError
from attar.students.cut_decoder import cut_decoder
from attar.students.decoder import layers_replaced, skipping
from attar.students.width_importance import WidthScores, score_widths
from students.decoders import BATCHES, FAMILIES, TOKENS, logits_of, tiny_decoder
from tiny import tiny_image_model

ALL = pytest.mark.parametrize("family", FAMILIES)


def scores(**changes: torch.Tensor) -> WidthScores:
    even = {"heads": torch.ones(4, 4), "neurons": torch.ones(4, 12), "channels": torch.ones(16)}
    return WidthScores(**{**even, **changes})


@ALL
@pytest.mark.parametrize("tied", [False, True])
def test_keeping_everything_changes_no_bit(family: str, tied: bool) -> None:
    teacher = tiny_decoder(family, tied=tied)
    whole = cut_decoder(
        teacher, layers=range(4), heads=4, key_value_heads=2, intermediate=12, width=16, kept_tokens=range(TOKENS)
    )
    assert torch.equal(logits_of(whole), logits_of(teacher))
    assert (whole.lm_head.weight is whole.model.embed_tokens.weight) == tied
    assert whole.config.to_dict() == {**teacher.config.to_dict(), "dtype": "float32"}


@ALL
@pytest.mark.parametrize("layers", [(0, 2, 3), (1, 3), (2,)])
def test_a_layer_less_is_a_layer_skipped(family: str, layers: tuple[int, ...]) -> None:
    teacher = tiny_decoder(family)
    student = cut_decoder(teacher, layers=layers)
    with layers_replaced(teacher, skipping({0, 1, 2, 3} - {*layers})):
        for batch in BATCHES:
            assert torch.equal(logits_of(student, batch), logits_of(teacher, batch))
    assert not torch.equal(logits_of(student), logits_of(teacher))


@ALL
def test_neurons_that_write_nothing_can_go(family: str) -> None:
    teacher = tiny_decoder(family)
    chosen = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    for layer, gone in zip(teacher.model.layers, chosen, strict=True):
        layer.mlp.down_proj.weight.data[:, gone[7:]] = 0
    order = torch.zeros(4, 12).scatter(1, chosen[:, :7], 1.0)
    student = cut_decoder(teacher, intermediate=7, scores=scores(neurons=order))
    assert student.config.intermediate_size == 7
    torch.testing.assert_close(logits_of(student), logits_of(teacher))


@ALL
@pytest.mark.parametrize(("heads", "groups"), [(2, 1), (2, 2), (1, 1)])
def test_heads_that_write_nothing_can_go(family: str, heads: int, groups: int) -> None:
    """Whole groups, one head of each group, or both; which ones differs by layer."""
    teacher = tiny_decoder(family)
    size = teacher.model.layers[0].self_attn.head_dim
    kept = {(2, 1): [[2, 3], [0, 1]] * 2, (2, 2): [[0, 3], [1, 2]] * 2, (1, 1): [[3], [0]] * 2}[heads, groups]
    order = torch.zeros(4, 4)
    for index, (layer, stay) in enumerate(zip(teacher.model.layers, kept, strict=True)):
        order[index, stay] = 1.0
        for head in {0, 1, 2, 3} - {*stay}:
            layer.self_attn.o_proj.weight.data[:, head * size : (head + 1) * size] = 0
    student = cut_decoder(teacher, heads=heads, key_value_heads=groups, scores=scores(heads=order))
    assert (student.config.num_attention_heads, student.config.num_key_value_heads) == (heads, groups)
    torch.testing.assert_close(logits_of(student), logits_of(teacher))


@ALL
def test_channels_go_out_of_all_that_reads_and_writes_them(family: str) -> None:
    """Against the teacher with these channels emptied, its norms counting the others alone: scaled by sqrt(12 / 16)."""
    teacher = tiny_decoder(family, rms_norm_eps=0.0)
    kept = [0, 1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15]
    gone = [i for i in range(16) if i not in kept]
    student = cut_decoder(
        teacher, width=12, scores=scores(channels=torch.zeros(16).index_fill(0, torch.tensor(kept), 1))
    )
    emptied = deepcopy(teacher)
    for name, value in emptied.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")):
            value[gone] = 0
        elif name.endswith("embed_tokens.weight"):
            value[:, gone] = 0
        elif "norm" in name and len(value) == 16:
            value *= (12 / 16) ** 0.5
    assert student.config.hidden_size == 12
    torch.testing.assert_close(logits_of(student), logits_of(emptied), rtol=1e-4, atol=1e-4)


@ALL
@pytest.mark.parametrize("tied", [False, True])
def test_kept_tokens_have_the_teacher_s_logits(family: str, tied: bool) -> None:
    special = {"eos_token_id": [2, 40], "bos_token_id": 1, "pad_token_id": 50, "decoder_start_token_id": 5}
    teacher = tiny_decoder(family, tied=tied, **special)
    teacher.generation_config = GenerationConfig(**special)
    kept = [0, 2, *range(5, TOKENS - 4, 2), 50]
    student = cut_decoder(teacher, kept_tokens=kept)
    new = torch.randint(0, len(kept), (2, 8), generator=torch.Generator().manual_seed(3))
    old = torch.tensor(kept)[new]
    ours, theirs = logits_of(student, {"input_ids": new}), logits_of(teacher, {"input_ids": old})
    torch.testing.assert_close(ours, theirs[..., kept])
    assert (student.lm_head.weight is student.model.embed_tokens.weight) == tied
    for config in (student.config, student.generation_config):
        assert (config.eos_token_id, config.bos_token_id, config.pad_token_id) == ([1], None, len(kept) - 1)
        assert config.decoder_start_token_id == 2
    assert teacher.config.vocab_size == TOKENS
    assert teacher.generation_config.pad_token_id == 50


@ALL
def test_a_cut_in_every_way_is_a_normal_model(family: str, tmp_path: Path) -> None:
    teacher = tiny_decoder(family, tied=True)
    before = deepcopy(teacher.state_dict())
    state = torch.get_rng_state()
    student = cut_decoder(
        teacher, layers=(1, 3), heads=2, intermediate=5, width=12, kept_tokens=range(30),
        scores=score_widths(teacher, BATCHES),
    )  # fmt: skip
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    batch = {"input_ids": BATCHES[0]["input_ids"] % 30}
    assert torch.equal(logits_of(again, batch), logits_of(student, batch))
    assert again.model.layers[0].self_attn.head_dim == teacher.model.layers[0].self_attn.head_dim
    again.train()(**batch, labels=batch["input_ids"]).loss.backward()
    assert again.model.layers[0].self_attn.q_proj.weight.grad is not None


def test_one_step_is_all_steps() -> None:
    teacher = tiny_decoder("qwen3")
    found = score_widths(teacher, BATCHES)
    sizes = {"heads": 2, "intermediate": 5, "width": 12}
    at_once = cut_decoder(teacher, layers=(1, 3), **sizes, scores=found)
    later = cut_decoder(
        cut_decoder(teacher, layers=(1, 3)), **sizes,
        scores=WidthScores(found.heads[[1, 3]], found.neurons[[1, 3]], found.channels),
    )  # fmt: skip
    assert torch.equal(logits_of(at_once), logits_of(later))


def test_double_and_half_teachers() -> None:
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        teacher = tiny_decoder().to(dtype)
        student = cut_decoder(teacher, layers=(0, 1, 2, 3))
        assert student.lm_head.weight.dtype is expected
        assert student.config.dtype is expected
        torch.testing.assert_close(student.lm_head.weight, teacher.lm_head.weight.to(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (0, 4)}, r"\[0, 4\] must ascend, each one of 0 to 3, once"),
        ({"layers": (2, 1)}, "must ascend"),
        ({"layers": ()}, "must ascend"),
        ({"heads": 3, "scores": scores()}, "3 heads cannot share 2 key and value heads evenly, 2 each at most"),
        ({"heads": 4, "key_value_heads": 1, "scores": scores()}, "Set student.heads to 1, 2, or another"),
        ({"key_value_heads": 3}, "student.key_value_heads: 3 cannot be cut from the teacher's 2"),
        ({"intermediate": 13}, "student.intermediate_size: 13 cannot be cut from the teacher's 12. Give 1 to 12"),
        ({"width": 8, "heads": 2}, "fewer of heads, hidden_size, key_value_heads need scores of what matters"),
    ],
)
def test_cuts_that_cannot_be(changes: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        cut_decoder(tiny_decoder(), **changes)


def test_other_models_are_refused() -> None:
    for model, got in (
        (nn.Linear(2, 2), "Linear"),
        (tiny_image_model(["a"]), r"ResNetForImageClassification \(resnet\)"),
    ):
        with pytest.raises(PlanError, match=rf"llama, mistral, qwen2, qwen3, smollm3, with their heads; got {got}"):
            cut_decoder(model)
    with pytest.raises(PlanError, match=r"got LlamaModel \(llama\)"):
        cut_decoder(tiny_decoder().model)


def test_a_quantized_tensor_is_refused() -> None:
    teacher = tiny_decoder()
    teacher.model.layers[1].mlp.up_proj = nn.Module()
    teacher.model.layers[1].mlp.up_proj.register_buffer("weight", torch.zeros(12, 16, dtype=torch.int8))
    with pytest.raises(PlanError, match=r'cut "model.layers.1.mlp.up_proj.weight" of a llama. Load the teacher unq'):
        cut_decoder(teacher)
