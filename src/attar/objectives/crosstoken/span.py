"""The probability of a stretch of text, whatever tokens it is made of.

Shape letters: N rows (tokens of the student), V tokens. P is the teacher's probability of the span, Q the student's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.objectives.response.derived import divergence
from attar.objectives.sparse import cells, log1mexp, log_sum_exp


def span_kl(student_logits: Tensor, teacher_log_probs: Tensor, *, token_ids: Tensor, others: Tensor) -> Tensor:
    """P log(P / Q) + (1 - P) log((1 - P) / (1 - Q)) per row, in nats, of the span that the row's token belongs to.

    By the chain rule a span's probability is the product of its tokens', each given those before. `student_logits`
    [N, V], float32 or float64, of any token in a span; int64 `token_ids` [N]: that token; `others` [N], <= 0: the
    student's log-probability of the span's other tokens (0 where it is alone), held constant; `teacher_log_probs` [N],
    <= 0: log P. Returns [N], in [0, inf]. No gradient reaches the teacher. Give every token of a span a row: the
    gradient summed over them is then the whole span's, and the value is counted once a token. A temperature would have
    to be applied to the sum of log-probabilities, not here: leave it at 1.

    The chunk comparison of Approximate Likelihood Matching, Minixhofer et al. 2025 (arXiv:2503.20083), with KL and
    without their debiasing. It says only how likely this text is, not what else could have been; but it is what two
    tokenizers can compare where they cut the text differently. GOLD's product of a row with such probabilities has the
    same numbers at the span's last token, and no minimum where both sides agree. Sibling: `aligned`, at the span's
    beginning.
    """
    others = others.detach()
    token, not_token = cells(student_logits, token_ids.unsqueeze(-1)).unbind(-1)
    not_span = log_sum_exp(torch.stack([log1mexp(others), others + not_token], -1))
    target = teacher_log_probs.detach()
    return divergence(torch.stack([target, log1mexp(target)], -1), torch.stack([others + token, not_span], -1))
