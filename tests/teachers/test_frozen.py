from __future__ import annotations

import copy

import torch
from torch import nn

from attar.teachers.frozen import Frozen


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def test_eval_mode_survives_train_of_whatever_holds_it():
    teacher = Frozen(Net())
    holder = nn.ModuleList([teacher, nn.Linear(1, 1)])
    holder.train()
    assert not any(part.training for part in teacher.modules())
    assert holder[1].training


def test_a_part_put_in_train_mode_returns_at_the_next_call_and_batch_statistics_stay():
    net = Net()
    teacher = Frozen(net)
    x = torch.randn(16, 4) + 5
    first, before = teacher(x), copy.deepcopy(net.state_dict())
    net.body.train()
    assert torch.equal(teacher(x), first)
    assert not net.body[2].training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_no_gradient_reaches_or_leaves_it():
    teacher = Frozen(Net())
    x = torch.randn(2, 4, requires_grad=True)
    assert not teacher(x).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_copy_of_its_model_can_be_trained():
    student = copy.deepcopy(Frozen(Net()).model)
    student.requires_grad_(True).train()
    assert student.body[2].training


def test_outputs_are_permuted_to_the_tasks_order():
    net = Net()
    x = torch.randn(2, 4)
    plain = Frozen(net)(x)
    assert torch.equal(Frozen(net, [2, 0, 1])(x), plain[:, [2, 0, 1]])
