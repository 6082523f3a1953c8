"""Language models and tokenizers small enough for tests: byte-level BPE on texts at hand, a Llama of kilobytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END, START = "<|end|>", "<|start|>"
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TEXTS = [
    f"the {beast} {does} the {thing}."
    for beast in ("cat", "dog", "old owl", "small fox")
    for does in ("sees", "wants", "likes", "has")
    for thing in ("moon", "red house", "river", "apple tree")
]


def tiny_bpe(texts: Iterable[str] = TEXTS, *, size: int = 320, chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with an end token, which also pads; with `chat` it has a template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END, START], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, additional_special_tokens=[START]
    )
    made.model_max_length = 64
    if chat:
        made.chat_template = TEMPLATE
    return made


def tiny_llama(
    tokenizer: PreTrainedTokenizerFast, *, hidden: int = 32, layers: int = 3, seed: int = 0
) -> LlamaForCausalLM:
    """In eval mode, tied, randomly initialised from `seed` with weights large enough for sure answers."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def save_language_model(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model folder as Transformers writes it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
