"""Objectives of embedding and ranking models against the float64 oracle and their peers, and laws of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import (
    CosineSimilarityLoss,
    DistillKLDivLoss,
    EmbedDistillLoss,
    MarginMSELoss,
    MSELoss,
)
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from attar.errors import TrainingError
from attar.objectives.embedding import (
    batch_similarity_distribution,
    margin_mse,
    similarity_distribution,
    static,
    static_embeddings,
    zipf_probabilities,
)
from attar.objectives.feature import cosine_distance, mse_distance
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Share, Term
from attar.objectives.response import forward_kl, logit_mse
from attar.objectives.supervised import squared_error
from objectives.oracles import embedding as oracle

INF = float("inf")
quick = settings(max_examples=25, derandomize=True)
seeds = st.integers(0, 2**31)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def same(got: Tensor, expected: object, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-12)


class TestMarginMSE:
    def test_is_the_oracles(self) -> None:
        student, teacher = 5 * draw(4, 6), 5 * draw(4, 6, seed=1)
        student[0, 3:] = teacher[0, 3:] = -INF
        student[1, 1:] = teacher[1, 1:] = -INF
        student[2, 0] = teacher[2, 0] = -INF
        expected = oracle.margin_mse(student.numpy(), teacher.numpy())
        same(margin_mse(student, teacher), expected)
        same(margin_mse(student.float(), teacher.float()), expected, rtol=1e-4)
        assert expected[1] == expected[2] == 0

    @pytest.mark.parametrize("negatives", [1, 3])
    def test_is_sentence_transformers(self, negatives: int) -> None:
        """Theirs is the mean over queries and negatives of dot products' margins: ours is that of each query."""
        query, *documents = draw(negatives + 2, 5, 8)
        teacher = draw(5, negatives + 1, seed=1)
        scores = torch.stack([(query * document).sum(-1) for document in documents], -1)
        peer = MarginMSELoss(nn.Identity())
        value = margin_mse(scores, teacher).mean()
        same(value, peer.compute_loss_from_embeddings([query, *documents], teacher))
        margins = teacher[:, :1] - teacher[:, 1:]
        same(value, peer.compute_loss_from_embeddings([query, *documents], margins))

    @quick
    @given(seed=seeds, documents=st.integers(2, 6))
    def test_knows_neither_a_shift_nor_the_order_of_negatives_nor_padding(self, seed: int, documents: int) -> None:
        student, teacher = draw(3, documents, seed=seed), draw(3, documents, seed=seed + 1)
        value = margin_mse(student, teacher)
        order = [0, *range(documents - 1, 0, -1)]
        same(margin_mse(student[:, order] + 7, teacher[:, order]), value)
        same(margin_mse(*(functional.pad(side, (0, 2), value=-INF) for side in (student, teacher))), value)
        assert (margin_mse(teacher - 3, teacher) < 1e-25).all()

    def test_of_a_pair_is_twice_logit_mse(self) -> None:
        student, teacher = draw(5, 2), draw(5, 2, seed=1)
        same(margin_mse(student, teacher), 2 * logit_mse(student, teacher))

    def test_padding_has_no_gradient_and_a_lone_minus_infinity_is_named(self) -> None:
        student, teacher = draw(3, 4).requires_grad_(), draw(3, 4, seed=1)
        gone = torch.tensor([False, False, True, False])
        margin_mse(*(side.masked_fill(gone, -INF) for side in (student, teacher))).sum().backward()
        assert torch.isfinite(student.grad).all()
        assert (student.grad[:, 2] == 0).all()
        share = Share(Term("margin_mse", margin_mse), teacher, None, 3)
        with pytest.raises(TrainingError, match="row 0: the student's logit of token 2 is -inf"):
            reduce_rows(student.detach().masked_fill(gone, -INF), [share])


class TestListwiseKL:
    """It is `forward_kl` on rows of scores."""

    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_is_sentence_transformers(self, temperature: float) -> None:
        """Theirs has T^2 and divides by queries, as the reduction does; a temperature of each side is theirs alone."""
        query, *documents = draw(5, 4, 8)
        teacher = 4 * draw(4, 4, seed=1)
        scores = torch.stack([(query * document).sum(-1) for document in documents], -1)
        term = Term("listwise_kl", forward_kl, temperature=temperature, temperature_power=2)
        ours = reduce_rows(scores, [Share(term, teacher, None, len(scores))]).total
        peer = DistillKLDivLoss(nn.Identity(), temperature=temperature)
        same(ours, peer.compute_loss_from_embeddings([query, *documents], teacher))

    def test_trap_a_list_padded_on_the_teachers_side_alone(self) -> None:
        """Sentence-transformers takes an infinite teacher score for an excluded document, but the student's softmax
        still runs over it: a student that agrees on all documents there are pays for the padding. With padding on both
        sides its value is NaN.
        """
        query, *documents = draw(4, 3, 8)
        scores = torch.stack([(query * document).sum(-1) for document in documents], -1)
        padding = torch.tensor([False, False, True])
        teacher = scores.masked_fill(padding, -INF)
        peer = DistillKLDivLoss(nn.Identity())
        assert peer.compute_loss_from_embeddings([query, *documents], teacher) > 0.1
        assert DistillKLDivLoss(nn.Identity()).loss_fct(teacher.log_softmax(-1), teacher.softmax(-1)).isnan()
        ours = forward_kl(teacher.clone(), teacher)
        assert ours.tolist() == [0, 0, 0]

    def test_of_one_document_is_zero(self) -> None:
        assert forward_kl(draw(3, 1), draw(3, 1, seed=1)).tolist() == [0, 0, 0]


class TestEmbedding:
    """It is `cosine_distance` or `mse_distance`, with a projector before the student where widths differ."""

    def test_is_sentence_transformers(self) -> None:
        student, teacher = draw(5, 8), draw(5, 8, seed=1)

        def peer(metric: str) -> Tensor:
            return EmbedDistillLoss(nn.Identity(), metric).compute_loss_from_embeddings([student], [teacher])

        same(cosine_distance(student, teacher).mean(), peer("cosine"))
        same(mse_distance(student, teacher).mean(), peer("mse"))
        same(
            mse_distance(student, teacher).mean(),
            MSELoss(nn.Identity()).compute_loss_from_embeddings([student], [teacher]),
        )
        # The paper's metric is a distance, not its square: its gradient does not fade, and has no value at 0.
        same((8 * mse_distance(student, teacher)).sqrt().mean(), peer("l2"))

    def test_a_pairs_score_is_a_regression(self) -> None:
        """A teacher's score of a pair (CosineSimilarityLoss): `squared_error` of the cosine, nothing new."""
        one, other, score = draw(5, 8), draw(5, 8, seed=1), torch.linspace(0, 1, 5)
        peer = CosineSimilarityLoss(nn.Identity()).compute_loss_from_embeddings([one, other], score)
        same(squared_error(1 - cosine_distance(one, other), score).mean(), peer, rtol=1e-6)

    def test_trap_the_zero_vector_keeps_a_tame_gradient(self) -> None:
        """Torch's cosine_similarity, which peers use, gives a padded (all-zero) row a gradient of about 1e8."""
        teacher = draw(1, 4)
        peer, ours = (torch.zeros(1, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
        (1 - functional.cosine_similarity(peer, teacher)).sum().backward()
        cosine_distance(ours, teacher).sum().backward()
        assert peer.grad.abs().max() > 1e6
        assert ours.grad.norm() <= 1


class TestSimilarityDistribution:
    @pytest.mark.parametrize("temperatures", [(0.04, 0.04), (0.2, 0.05)])
    def test_is_the_oracles(self, temperatures: tuple[float, float]) -> None:
        sides = draw(4, 5), draw(4, 7, seed=1), draw(6, 5, seed=2), draw(6, 7, seed=3)
        expected = oracle.similarity_distribution(*(side.numpy() for side in sides), temperatures)
        for dtype, rtol in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            student, teacher, ours, theirs = (side.to(dtype) for side in sides)
            value = similarity_distribution(
                student,
                teacher,
                student_queue=ours,
                teacher_queue=theirs,
                student_temperature=temperatures[0],
                teacher_temperature=temperatures[1],
            )
            assert value.dtype is dtype
            same(value, expected, rtol)

    @pytest.mark.parametrize("temperatures", [(0.04, 0.04), (0.2, 0.05)])
    def test_of_a_batch_is_the_oracles(self, temperatures: tuple[float, float]) -> None:
        student, teacher = draw(6, 5), draw(6, 7, seed=1)
        expected = oracle.batch_similarity_distribution(student.numpy(), teacher.numpy(), temperatures)
        options = {"student_temperature": temperatures[0], "teacher_temperature": temperatures[1]}
        same(batch_similarity_distribution(student, teacher, **options), expected)
        same(batch_similarity_distribution(student.float(), teacher.float(), **options), expected, rtol=1e-4)

    def test_is_compress(self) -> None:
        """The authors' loss (two banks, one temperature, batchmean) is the mean of ours."""
        student, teacher, ours, theirs = draw(4, 5), draw(4, 7, seed=1), draw(6, 5, seed=2), draw(6, 7, seed=3)
        similarities = [
            functional.normalize(side) @ functional.normalize(bank).T / 0.04
            for side, bank in ((student, ours), (teacher, theirs))
        ]
        peer = functional.kl_div(similarities[0].log_softmax(1), similarities[1].softmax(1), reduction="batchmean")
        same(similarity_distribution(student, teacher, student_queue=ours, teacher_queue=theirs).mean(), peer)

    def test_is_seed_less_the_teachers_entropy(self) -> None:
        """SEED lets each row see its own teacher embedding, and both sides the teacher's queue."""
        student, teacher, queue = draw(1, 5).requires_grad_(), draw(1, 5, seed=1), draw(6, 5, seed=2)
        both = torch.cat([teacher, queue])
        similar = [functional.normalize(side) @ functional.normalize(both).T for side in (student, teacher)]
        p = (similar[1] / 0.05).softmax(1)
        peer = -(p * (similar[0] / 0.2).log_softmax(1)).sum()
        value = similarity_distribution(
            student, teacher, student_queue=both, teacher_queue=both, student_temperature=0.2, teacher_temperature=0.05
        ).sum()
        same(value.detach(), (peer + (p * p.log()).sum()).detach())
        same(torch.autograd.grad(value, student)[0], torch.autograd.grad(peer, student)[0])

    @quick
    @given(seed=seeds, temperature=st.floats(0.02, 2.0), other=st.floats(0.02, 2.0))
    def test_is_never_negative_and_knows_no_length_and_no_common_rotation(
        self, seed: int, temperature: float, other: float
    ) -> None:
        student, teacher, queue = draw(3, 4, seed=seed), draw(3, 4, seed=seed + 1), draw(5, 4, seed=seed + 2)
        rotation = torch.linalg.qr(draw(4, 4, seed=seed + 3))[0]

        def value(student: Tensor, student_queue: Tensor) -> Tensor:
            return similarity_distribution(
                student,
                teacher,
                student_queue=student_queue,
                teacher_queue=queue,
                student_temperature=temperature,
                teacher_temperature=other,
            )

        plain = value(student, queue)
        assert (plain >= 0).all()
        torch.testing.assert_close(value(3 * student @ rotation, 0.1 * queue @ rotation), plain, rtol=1e-7, atol=1e-9)

    def test_queues_get_no_gradient_and_a_short_one_asks_for_nothing(self) -> None:
        student, teacher = draw(3, 4).requires_grad_(), draw(3, 4, seed=1)
        queue = draw(5, 4, seed=2).requires_grad_()
        similarity_distribution(student, teacher, student_queue=queue, teacher_queue=queue).sum().backward()
        assert queue.grad is None
        for rows in (0, 1):
            value = similarity_distribution(student, teacher, student_queue=queue[:rows], teacher_queue=queue[:rows])
            assert value.tolist() == [0, 0, 0]
            assert (torch.autograd.grad(value.sum(), student)[0] == 0).all()

    def test_of_two_rows_is_zero_and_of_three_is_not(self) -> None:
        student, teacher = draw(3, 4).requires_grad_(), draw(3, 5, seed=1)
        assert batch_similarity_distribution(student[:2], teacher[:2]) == 0
        assert batch_similarity_distribution(student, teacher) > 0

    def test_trap_a_row_that_resembles_itself_most_hides_the_others(self) -> None:
        """With a row's self left in, its cosine of 1 takes all of a sharp softmax, and the objective says nothing."""
        student, teacher = draw(8, 16), draw(8, 16, seed=1)
        with_self = similarity_distribution(student, teacher, student_queue=student, teacher_queue=teacher).mean()
        assert batch_similarity_distribution(student, teacher) > 1e3 * with_self


class TestStatic:
    @pytest.mark.parametrize("shape", [(30, 6), (5, 9)])
    def test_is_the_oracles(self, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        vectors, p = draw(*shape) + 3, zipf_probabilities(shape[0])
        expected = oracle.static_embeddings(vectors.numpy(), 4, p.numpy(), 1e-3)
        same(static_embeddings(vectors, dimensions=4, probabilities=p), expected, rtol=1e-7)
        single = static_embeddings(vectors.float().requires_grad_(), dimensions=4, probabilities=p)
        assert single.dtype is torch.float32
        assert not single.requires_grad
        np.testing.assert_allclose(single, expected, atol=1e-5 * np.abs(expected).max())
        monkeypatch.setattr(static, "_BLOCK", 7)
        same(static_embeddings(vectors, dimensions=4, probabilities=p), expected, rtol=1e-7)

    def test_is_scikit_learns_pca_with_model2vecs_weights(self) -> None:
        """Model2vec makes the largest score of a component positive, we as scikit-learn its largest weight."""
        vectors = draw(40, 6)
        inverse = 1 / np.arange(2, 42)
        weights = 1e-4 / (1e-4 + inverse / inverse.sum())
        expected = PCA(n_components=3, svd_solver="full").fit_transform(vectors.numpy()) * weights[:, None]
        p = zipf_probabilities(40)
        same(static_embeddings(vectors, dimensions=3, probabilities=p, coefficient=1e-4), expected, rtol=1e-7)

    def test_the_mean_of_a_text_is_the_sif_weighted_mean_of_its_centred_tokens(self) -> None:
        vectors, p = draw(20, 6), torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        table = static_embeddings(vectors, dimensions=6, probabilities=p)
        texts = [torch.tensor([3, 3, 7]), torch.tensor([1, 19])]
        means = torch.stack([functional.embedding_bag(text[None], table, mode="mean")[0] for text in texts])
        centred = vectors - vectors.mean(0)
        sif = [sum(1e-3 / (1e-3 + p[w]) * centred[w] for w in text) / len(text) for text in texts]
        # All components kept, PCA only rotates: lengths and angles are those of the vectors themselves.
        same(means @ means.T, torch.stack(sif) @ torch.stack(sif).T, rtol=1e-7)

    @quick
    @given(seed=seeds)
    def test_the_order_of_tokens_and_a_shift_do_not_matter(self, seed: int) -> None:
        vectors, p = draw(12, 5, seed=seed), zipf_probabilities(12)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        table = static_embeddings(vectors, dimensions=3, probabilities=p)
        moved = static_embeddings(vectors[order] + 5, dimensions=3, probabilities=p[order])
        torch.testing.assert_close(moved, table[order], rtol=1e-6, atol=1e-9)

    def test_zipf_falls_and_sums_to_one(self) -> None:
        p = zipf_probabilities(1000)
        assert (p.diff() < 0).all()
        assert p.sum().item() == pytest.approx(1)

    def test_what_does_not_fit_is_named(self) -> None:
        vectors, p = draw(5, 3), zipf_probabilities(5)
        with pytest.raises(ValueError, match="dimensions is 4; 5 tokens of width 3 have 1 to 3"):
            static_embeddings(vectors, dimensions=4, probabilities=p)
        with pytest.raises(ValueError, match=r"\[4\] probabilities for 5 tokens"):
            static_embeddings(vectors, dimensions=2, probabilities=p[:4])
        with pytest.raises(ValueError, match="coefficient > 0"):
            static_embeddings(vectors, dimensions=2, probabilities=p, coefficient=0.0)
        with pytest.raises(ValueError, match="must be >= 0"):
            static_embeddings(vectors, dimensions=2, probabilities=-p)
