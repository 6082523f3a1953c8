"""Logits of all rows: sorted by length so that little is padded, batched by tokens, and put back into their order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from attar.signals import Wanted, ask
from attar.tasks.base import Encoded, Processor, Task
from attar.teachers.scoring import batch_budget, row_costs, token_batches


def predict_logits(
    model: nn.Module,
    task: Task,
    encoded: Encoded,
    processor: Processor,
    *,
    batch_tokens: int = 8192,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Logits float32 [N, C] of all rows, in the order of `encoded`. The model is left in the mode it came in.

    `batch_tokens` bounds rows x longest row of a batch in tokens (text) or thousands of pixels (images); one row is
    always a batch of its own if need be. `model` stands on `device` already. NaN logits are handed on as they are.
    """
    logits = np.empty((len(encoded), len(task.labels)), np.float32)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows in token_batches(row_costs(encoded), batch_budget(batch_tokens, str(device))):
                inputs = {name: value.to(device) for name, value in task.batch(encoded, rows, processor).items()}
                answer: Tensor | None = ask(model, inputs, Wanted()).dense_logits
                assert answer is not None
                logits[rows] = answer.float().cpu().numpy()
    finally:
        model.train(was_training)
    return logits
