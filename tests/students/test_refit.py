"""What is refitted is the least-squares solution, as far as unseen rows bear it out, and what can be said is said."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attar.students import refit as refitting
from attar.students.cut_decoder import cut_decoder
from attar.students.decoder import mean_kl
from attar.students.refit import RIDGES, Site, channel_sites, inner_sites, refit
from attar.students.width_importance import WidthScores, score_widths
from students.decoders import BATCHES, FAMILIES, TOKENS, logits_of, tiny_decoder

ALL = pytest.mark.parametrize("family", FAMILIES)
MANY = [{"input_ids": torch.randint(0, TOKENS, (12, 16), generator=torch.Generator().manual_seed(7))}]


def read_by(teacher: nn.Module, site: Site, batches: list[dict[str, Tensor]]) -> list[np.ndarray]:
    """What the site reads of the tokens that count, one array [tokens, n] a half of the rows."""
    halves: list[list[np.ndarray]] = [[], []]
    row = 0
    for batch in batches:
        seen: list[Tensor] = []
        handle = site.module.register_forward_hook(lambda _, args, out, to=seen: to.append(args[0]))
        logits_of(teacher, batch)
        handle.remove()
        for index, values in enumerate(seen[0].double().numpy()):
            kept = batch["attention_mask"][index].bool().numpy() if "attention_mask" in batch else slice(None)
            halves[row % 2].append(values[kept])
            row += 1
    return [np.concatenate(half) for half in halves]


def by_hand(teacher: nn.Module, site: Site, weight: np.ndarray, batches: list[dict[str, Tensor]]) -> np.ndarray:
    """W R^T, R by numpy's lstsq on stacked rows, its ridge by the errors of dense outputs on the other half."""
    rows = list(site.rows)

    def parts(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u = z[:, rows]
        if site.norm is not None:
            u, z = (x / np.sqrt((x**2).mean(-1, keepdims=True) + site.eps) for x in (u, z))
        return u, z

    def solve(z: np.ndarray, ridge: float | None) -> np.ndarray:
        u, z = parts(z)
        plain = np.zeros((len(rows), z.shape[1]))
        gain = 1.0 if site.norm is None else (u * z[:, rows]).sum() / (u**2).sum()
        plain[range(len(rows)), rows] = gain
        if ridge is None:
            return plain
        damping = np.sqrt(ridge * (u**2).sum(0).mean()) * np.eye(len(rows))
        target = np.concatenate([z - u @ plain, np.zeros((len(rows), z.shape[1]))])
        return plain + np.linalg.lstsq(np.concatenate([u, damping]), target, rcond=None)[0]

    first, second = read_by(teacher, site, batches)
    errors = {}
    for ridge in (None, *RIDGES):
        errors[ridge] = 0.0
        for fitted, unseen in ((first, second), (second, first)):
            u, z = parts(unseen)
            errors[ridge] += (((u @ solve(fitted, ridge) - z) @ weight.T) ** 2).sum()
    return weight @ solve(np.concatenate([first, second]), min(errors, key=lambda ridge: errors[ridge])).T


@ALL
def test_readers_are_the_least_squares_solution(family: str) -> None:
    teacher, batches = tiny_decoder(family), [*MANY, *BATCHES]
    rows = (0, 1, 4, 5)
    sites = [
        *inner_sites(teacher, {1: rows}, {2: (0, 3, 4, 7, 8, 9, 10)}),
        *channel_sites(teacher, (0, 3), range(3, 15)),
    ]
    found = refit(teacher, batches, sites)
    state = teacher.state_dict()
    for site in sites:
        before = np.ones(1) if site.norm is None else state[site.norm].double().numpy()
        unit = np.sqrt((before**2).mean())
        whole = np.concatenate([state[name].double().numpy() for name in site.readers]) * before
        ours = np.concatenate([found[name].double().numpy() for name in site.readers])
        np.testing.assert_allclose(ours * unit, by_hand(teacher, site, whole, batches), rtol=1e-3, atol=1e-4)
        if site.norm is not None:
            assert found[site.norm].tolist() == pytest.approx([unit] * len(site.rows))


@ALL
def test_what_the_others_say_too_is_not_lost(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neurons 8 to 11 are copies of 0 to 3, times a number; the second group of heads is a copy of the first."""
    monkeypatch.setattr(refitting, "RIDGES", (1e-9,))
    teacher = tiny_decoder(family)
    for layer in teacher.model.layers:
        for part in (layer.mlp.gate_proj, layer.mlp.up_proj):
            for value in part.parameters():
                value[8:] = value[:4] * (1.0 if part is layer.mlp.gate_proj else -0.7)
        for name in ("q_proj", "k_proj", "v_proj"):
            for value in getattr(layer.self_attn, name).parameters():
                value[len(value) // 2 :] = value[: len(value) // 2]
    scores = WidthScores(torch.tensor([[2.0, 2, 1, 1]] * 4), torch.tensor([[1.0] * 8 + [0] * 4] * 4), torch.ones(16))
    for sizes in ({"intermediate": 8}, {"key_value_heads": 1}, {"intermediate": 8, "heads": 2}):
        student = cut_decoder(teacher, **sizes, scores=scores, refit_on=MANY)
        torch.testing.assert_close(logits_of(student), logits_of(teacher), rtol=1e-3, atol=1e-3)
        copied = cut_decoder(teacher, **sizes, scores=scores)
        assert (logits_of(copied) - logits_of(teacher)).abs().max() > 0.1


@ALL
@pytest.mark.parametrize("tied", [False, True])
def test_channels_that_are_always_empty_can_go(family: str, tied: bool) -> None:
    teacher = tiny_decoder(family, tied=tied)
    kept = [0, 1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15]
    gone = [i for i in range(16) if i not in kept]
    for name, value in teacher.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")):
            value[gone] = 0
        elif name.endswith("embed_tokens.weight"):
            value[:, gone] = 0
    scores = WidthScores(torch.ones(4, 4), torch.ones(4, 12), torch.zeros(16).index_fill(0, torch.tensor(kept), 1.0))
    student = cut_decoder(teacher, width=12, scores=scores, refit_on=MANY)
    torch.testing.assert_close(logits_of(student), logits_of(teacher), rtol=1e-3, atol=1e-3)
    assert (student.lm_head.weight is student.model.embed_tokens.weight) == tied


@ALL
def test_refitting_brings_a_cut_nearer_to_its_teacher(family: str) -> None:
    teacher = tiny_decoder(family, tied=family == "llama")
    unseen = [{"input_ids": torch.randint(0, TOKENS, (8, 16), generator=torch.Generator().manual_seed(8))}]
    scores = score_widths(teacher, MANY)
    sizes = {"heads": 2, "intermediate": 8, "width": 12}
    refitted, copied = (cut_decoder(teacher, **sizes, scores=scores, refit_on=on) for on in (MANY, ()))
    assert mean_kl(teacher, refitted, unseen) < mean_kl(teacher, copied, unseen)


def test_one_row_refits_nothing() -> None:
    teacher = tiny_decoder()
    scores = score_widths(teacher, MANY)
    one = [{"input_ids": MANY[0]["input_ids"][:1]}]
    refitted, copied = (cut_decoder(teacher, heads=2, intermediate=5, scores=scores, refit_on=on) for on in (one, ()))
    for name, value in refitted.state_dict().items():
        torch.testing.assert_close(value, copied.state_dict()[name])


def test_a_refitted_teacher_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_decoder().train()
    before = deepcopy(teacher.state_dict())
    sites = channel_sites(teacher, range(4), range(8))
    refit(teacher, MANY, sites)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    monkeypatch.setattr(teacher.model.layers[3].mlp, "forward", None)
    with pytest.raises(TypeError):
        refit(teacher, MANY, sites)
    assert sum(len(module._forward_hooks) for module in teacher.modules()) == 0
    assert teacher.training
