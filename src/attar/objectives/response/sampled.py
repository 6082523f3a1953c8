"""Objectives on the token that was drawn, rather than on all of a row's tokens.

Shape letters: N rows, V tokens. p is the teacher's distribution, q the student's, y a row's token.
"""

from __future__ import annotations

from torch import Tensor

from attar.objectives.response.kl import log_probabilities


def sampled_token(student_logits: Tensor, teacher_logits: Tensor, *, token_ids: Tensor) -> Tensor:
    """-(log p_y - log q_y) log q_y per row, the bracket held constant in the gradient. arXiv:2306.08543.

    Both [N, V], float32 or float64; -inf allowed where both have it. `token_ids` int64 [N] in 0..V-1: for each row a
    token y that the student itself drew from q, at this temperature. Returns [N], signed: negative where the teacher
    holds y less likely than the student does. No gradient reaches the teacher.

    Over y ~ q its expected gradient is that of `reverse_kl` (the policy gradient of MiniLLM, Gu et al. 2023, for one
    step, without its baseline and clipping); with the opposite sign it climbs away from the teacher. Only the gradient
    means something: the expected value is no divergence, so watch `reverse_kl` instead. Of p it uses one token a row.
    Where all of p is at hand choose `reverse_kl`: the same gradient without the noise.
    """
    student, teacher = log_probabilities(student_logits, teacher_logits)
    drawn = token_ids.unsqueeze(-1)
    log_q, log_p = student.gather(-1, drawn).squeeze(-1), teacher.gather(-1, drawn).squeeze(-1)
    return (log_q.detach() - log_p) * log_q
