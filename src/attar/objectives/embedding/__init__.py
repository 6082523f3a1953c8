"""Objectives of embedding and ranking models, whose answers are vectors and scores.

| kind | function | a row is |
|---|---|---|
| embedding (cosine, mse) | `hidden.cosine_distance`, `hidden.mse_distance` | a pooled vector |
| similarity_distribution | `similarity_distribution`, or without a queue its `batch_` form | a pooled vector |
| margin_mse | `margin_mse` | a query: the scores of its documents |
| listwise_kl | `response.forward_kl` | a query: the scores of its documents |
| static | `static_embeddings`, which trains nothing | a token of the vocabulary |

EmbedDistill (arXiv:2301.12005) matches embeddings by their Euclidean distance; `mse_distance` is its square / D, whose
gradient fades as the student arrives. Where widths differ, a learned projector stands before the student's side.

Listwise distillation (arXiv:2010.11386) is KL(p || q) of both sides' softmax over one query's documents: `forward_kl`
on rows of scores. Lists of unequal length are padded with -inf on both sides; a query whose list is empty is masked.
"""

from attar.objectives.embedding.ranking import margin_mse
from attar.objectives.embedding.similarity import batch_similarity_distribution, similarity_distribution
from attar.objectives.embedding.static import static_embeddings, zipf_probabilities

__all__ = [
    "batch_similarity_distribution",
    "margin_mse",
    "similarity_distribution",
    "static_embeddings",
    "zipf_probabilities",
]
