"""Queries, keys and values by hooks: every family of the table, and the traps of hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from attar.errors import TeacherError, TrainingError
from attar.hooks import VECTORS, AttentionKey, ask_with_taps, find_taps, tapped
from attar.signals import HiddenKey, Wanted, ask, look_inside
from attar.tasks.timm_models import timm_model
from tiny import tiny_image_model

TEXTS = {
    "input_ids": torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0], [1, 2, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]),
}
IMAGES = {"pixel_values": torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 2}
WORDS = {**SIZES, "vocab_size": 30, "pad_token_id": 0}
KEY = AttentionKey(layer=2, of="key")

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**WORDS)),
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**WORDS, num_key_value_heads=1)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=30, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=2)
    ),
    "deberta": lambda: DebertaV2ForSequenceClassification(DebertaV2Config(**WORDS)),
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**WORDS)),
    "modernbert": lambda: ModernBertForSequenceClassification(ModernBertConfig(**WORDS)),
    "gpt2": lambda: GPT2ForSequenceClassification(
        GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, num_labels=2, pad_token_id=0)
    ),
    "vit": lambda: ViTForImageClassification(ViTConfig(**SIZES, image_size=8, patch_size=4)),
    "timm": lambda: timm_model("vit_tiny_patch16_224", {"num_labels": 2, "model_args": {"img_size": 8, "patch_size": 4,
        "embed_dim": 16, "depth": 2, "num_heads": 2}}, pretrained=False),
}  # fmt: skip


quiet_dynamo = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # it looks itself


def family(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    return FAMILIES[name]().eval(), IMAGES if name in ("vit", "timm") else TEXTS


def bert() -> nn.Module:
    return family("bert")[0]


def no_hooks(model: nn.Module) -> bool:
    """None of ours: Transformers keeps its own, elsewhere."""
    return not any(tap.module._forward_hooks for tap in find_taps(model).values())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_the_table(name: str) -> None:
    model, inputs = family(name)
    inside = look_inside(model, inputs)
    assert inside.attention_layers == 2
    narrow = 8 if name == "llama" else 16  # one key for two queries
    assert [inside.attention[AttentionKey(layer=2, of=of)] for of in VECTORS] == [16, narrow, narrow]
    wanted = Wanted(logits=True, attention=tuple(inside.attention))
    signals = ask(model, inputs, wanted)
    assert torch.equal(signals.logits, model(**inputs).logits)
    assert {value.shape[:2] for value in signals.attention.values()} == {(3, 5 if name in ("vit", "timm") else 4)}
    if "attention_mask" in inputs:
        assert torch.equal(signals.mask, inputs["attention_mask"].bool())
    assert no_hooks(model)


def test_the_vectors_are_those_that_attention_reads() -> None:
    """BERT's by hand, and the thirds of a joined projection in their order."""
    model = bert()
    states = model(**TEXTS, output_hidden_states=True).hidden_states
    layer = model.bert.encoder.layer[1].attention.self
    keys = [AttentionKey(layer=2, of=of) for of in VECTORS]
    found = ask(model, TEXTS, Wanted(attention=tuple(keys))).attention
    for key, projection in zip(keys, (layer.query, layer.key, layer.value), strict=True):
        torch.testing.assert_close(found[key], projection(states[1]))
    model, _ = family("gpt2")
    made: list[Tensor] = []
    handle = model.transformer.h[1].attn.c_attn.register_forward_hook(lambda _, __, output: made.append(output))
    found = ask(model, TEXTS, Wanted(attention=tuple(keys))).attention
    handle.remove()
    torch.testing.assert_close(torch.cat([found[key] for key in keys], -1), made[0])


def test_an_unknown_family_is_refused_with_the_names_that_were_looked_for() -> None:
    model = GPTNeoXForSequenceClassification(GPTNeoXConfig(**WORDS)).eval()
    inside = look_inside(model, TEXTS)
    assert not inside.attention
    for told in ("GPTNeoX", "query/key/value", "q_proj/k_proj/v_proj", "q_lin/k_lin/v_lin", "Wqkv"):
        assert told in inside.no_attention
    with pytest.raises(TrainingError, match="query/key/value"):
        ask(model, TEXTS, Wanted(attention=(KEY,)))
    with pytest.raises(TrainingError, match="layers are 1 to 2, but 3 is wanted"):
        ask(bert(), TEXTS, Wanted(attention=(AttentionKey(layer=3, of="key"),)))
    resnet = tiny_image_model(["a", "b"])
    assert not look_inside(resnet, IMAGES).attention


def test_trap_a_path_that_fires_twice_is_named() -> None:
    model = AlbertForSequenceClassification(AlbertConfig(**WORDS, embedding_size=16)).eval()
    first = AttentionKey(layer=1, of="query")
    with pytest.raises(TrainingError, match=r"albert_layers\.0\.attention\.query: came out 2 times"):
        ask(model, TEXTS, Wanted(attention=(first,)))
    assert no_hooks(model)
    assert "came out 2 times" in look_inside(model, TEXTS).no_attention


def test_trap_a_path_that_never_fires_is_named() -> None:
    model = bert()
    model.bert.encoder.layer[1].forward = lambda states, *_, **__: states  # a layer that is passed by
    with pytest.raises(TrainingError, match=r"layer\.1\.attention\.self\.key: came out 0 times"):
        ask(model, TEXTS, Wanted(attention=(KEY,)))
    assert no_hooks(model)


def test_trap_hooks_are_removed_where_the_forward_pass_fails() -> None:
    model = bert()
    with tapped(model, [KEY]):
        assert not no_hooks(model)
        model(**TEXTS)
    assert no_hooks(model)
    model.classifier.forward = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        ask(model, TEXTS, Wanted(attention=(KEY,)))
    assert no_hooks(model)


class InPlace(nn.Module):
    """Attention that scales its queries where they stand."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = self.query(states), self.key(states), self.value(states)
        query *= 0.5
        return (query @ key.mT).softmax(-1) @ value


def test_trap_an_output_that_is_changed_in_place_was_kept_before() -> None:
    model, states = InPlace(), torch.randn(2, 3, 4)
    first = AttentionKey(layer=1, of="query")
    _, found = ask_with_taps(model, {"states": states}, [first])
    torch.testing.assert_close(found[first], model.query(states))
    found[first].sum().backward()
    torch.testing.assert_close(model.query.bias.grad, torch.full((4,), 6.0))


@pytest.fixture
def one_process() -> Iterator[Any]:
    """A process group of this process alone, gone afterwards."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


@quiet_dynamo
def test_trap_wrappers_are_seen_through(one_process: Any) -> None:
    model = bert()
    wanted = Wanted(hidden=(HiddenKey(2, "mean"),), attention=(KEY,))
    expected = ask(model, TEXTS, wanted)
    wrapped = nn.parallel.DistributedDataParallel(model, process_group=one_process)
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    compiled(**TEXTS)  # compiled code exists before the hooks do
    inner = copy.deepcopy(model)
    inner.bert.encoder = torch.compile(inner.bert.encoder, backend="eager")
    inner(**TEXTS)
    for found in (ask(each, TEXTS, wanted) for each in (wrapped, compiled, inner)):
        torch.testing.assert_close(found.attention[KEY], expected.attention[KEY])
        torch.testing.assert_close(found.logits, expected.logits)
    for each in (wrapped, compiled, inner):
        assert find_taps(each)[KEY].path == "bert.encoder.layer.1.attention.self.key"


@quiet_dynamo
def test_trap_hooks_work_inside_a_compiled_module() -> None:
    class Outer(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return ask(self.model, inputs, Wanted(attention=(KEY,))).attention[KEY].sum() * 2.0

    model = bert()
    compiled = torch.compile(Outer(model), backend="eager")
    for _ in range(2):
        loss = compiled(TEXTS)
        torch.testing.assert_close(loss, Outer(model)(TEXTS))
    loss.backward()
    assert model.bert.encoder.layer[1].attention.self.key.weight.grad is not None


@pytest.mark.parametrize("reentrant", [True, False])
def test_trap_a_gradient_that_is_lost_is_an_error(reentrant: bool) -> None:
    class Checkpointed(InPlace):
        def forward(self, states: Tensor) -> Tensor:
            return checkpoint(super().forward, states, use_reentrant=reentrant)

    model, states = Checkpointed(), torch.randn(2, 3, 4, requires_grad=True)
    first = AttentionKey(layer=1, of="query")
    if reentrant:
        with pytest.raises(TrainingError, match="query: came out without a gradient"):
            ask_with_taps(model, {"states": states}, [first])
        model.requires_grad_(False)
    answer, found = ask_with_taps(model, {"states": states}, [first])
    assert found[first].requires_grad is not reentrant
    if not reentrant:
        (answer.sum() + found[first].sum()).backward()  # the layer is run anew, without hooks
        torch.testing.assert_close(model.query.bias.grad[0].sign(), torch.tensor(1.0))


def test_attention_within_windows_is_refused() -> None:
    class Windows(InPlace):
        def forward(self, states: Tensor) -> Tensor:
            return super().forward(states.flatten(0, 1).unflatten(0, (-1, 1)))

    with pytest.raises(TrainingError, match=r"query: gave \[6, 1, 4\] for 2 rows"):
        ask_with_taps(Windows(), {"states": torch.randn(2, 3, 4)}, [AttentionKey(layer=1, of="query")])


def test_a_feature_map_is_asked_for_as_it_is() -> None:
    model = tiny_image_model(["a", "b"])
    inside = look_inside(model, IMAGES)
    assert inside.maps.keys() == inside.widths.keys()
    signals = ask(model, IMAGES, Wanted(hidden=(HiddenKey(1, "map"), HiddenKey(1, "mean"))))
    whole = signals.hidden[HiddenKey(1, "map")]
    assert whole.shape == (3, inside.widths[1], *inside.maps[1])
    torch.testing.assert_close(whole.mean((2, 3)), signals.hidden[HiddenKey(1, "mean")])
    assert signals.mask is None
    with pytest.raises(TeacherError, match=r"\[3, 5, 16\] is no feature map"):
        ask(tiny_image_model(["a", "b"], "vit"), IMAGES, Wanted(hidden=(HiddenKey(1, "map"),)))
