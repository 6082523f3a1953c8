"""What is handed over in Python hashes alike in every process, and otherwise as soon as it behaves otherwise."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import attar.identity
from attar.identity import hash_function, hash_module, hash_processor
from tiny import tiny_bert, tiny_tokenizer

LOSSES = """
from functools import partial
STRENGTH, KINDS = {strength}, ("a", "b")
def helper(gap):
    return gap.abs() * {inside}
def loss(student, teacher, *, kinds=frozenset({{"a", "b", "c"}})):
    return helper(student - teacher).mean(-1) * STRENGTH * ("a" in {{"a", "b", "c"}})
def scaled(factor):
    return lambda student, teacher: factor * loss(student, teacher)
class Callable:
    def __init__(self, power): self.power = power
    def __call__(self, student, teacher): return loss(student, teacher) ** self.power
"""


def losses(name: str = "own", *, strength: float = 1.0, inside: int = 2) -> dict[str, object]:
    found: dict[str, object] = {"__name__": name}
    exec(LOSSES.format(strength=strength, inside=inside), found)
    return found


def test_the_same_code_in_another_process_has_the_same_hash(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(LOSSES.format(strength=1.0, inside=2))
    code = (
        "import own; from attar.identity import hash_function as h;"
        "print(h(own.loss), h(own.scaled(2.0)), h(own.Callable(3)))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(attar.identity.__file__).parents[1])},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1
    assert len(set(told.pop().split())) == 3


def test_all_that_shapes_a_function_shapes_its_hash() -> None:
    plain = hash_function(losses()["loss"])
    assert plain == hash_function(losses()["loss"])
    assert plain != hash_function(losses(strength=1.5)["loss"]), "a global"
    assert plain != hash_function(losses(inside=3)["loss"]), "a function that it calls"
    scaled, power = losses()["scaled"], losses()["Callable"]
    assert hash_function(scaled(2.0)) != hash_function(scaled(3.0)), "a variable of the outer function"
    assert hash_function(power(2)) != hash_function(power(3)), "a field"
    assert hash_function(power(2)) == hash_function(power(2))
    ones, twos = torch.ones(3), torch.full((3,), 2.0)
    assert hash_function(lambda s, t: ones) != hash_function(lambda s, t: twos)


class Net(nn.Module):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.head, self.dropout = nn.Linear(4, 2), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(x))


def test_all_that_shapes_a_module_shapes_its_hash() -> None:
    net = Net()
    assert hash_module(net) == hash_module(copy.deepcopy(net))
    shape_alone = Net()
    assert hash_module(net) != hash_module(shape_alone), "weights"
    wetter = Net(0.2)
    wetter.load_state_dict(net.state_dict())
    assert hash_module(net) != hash_module(wetter), "settings"
    before, old = hash_module(net), Net.forward
    Net.forward = lambda self, x: self.head(x)  # type: ignore[method-assign]
    try:
        assert hash_module(net) != before, "code"
    finally:
        Net.forward = old  # type: ignore[method-assign]


def test_models_and_tokenizers_of_transformers() -> None:
    tokenizer, other = tiny_tokenizer(["my card is lost"]), tiny_tokenizer(["my fee is late"])
    assert hash_processor(tokenizer) == hash_processor(copy.deepcopy(tokenizer)) != hash_processor(other)
    one, again, third = (tiny_bert(tokenizer, ["a", "b"], seed=seed) for seed in (0, 0, 1))
    assert hash_module(one) == hash_module(again) != hash_module(third)
