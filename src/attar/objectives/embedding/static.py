"""A student without training: the teacher's vectors of single tokens, compressed and weighted once.

A text's embedding is then the mean of its tokens' vectors. Shape letters: V tokens, D the teacher's width, d the
student's.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2**14
"""Tokens whose products are summed in float64 at a time."""


def static_embeddings(
    token_embeddings: Tensor, *, dimensions: int, probabilities: Tensor, coefficient: float = 1e-3
) -> Tensor:
    """The first d principal components of each token's vector, times a / (a + p(w)), a = `coefficient`.

    `token_embeddings` [V, D], float32 or float64: what the teacher says of each token by itself (its output, not its
    embedding table); `dimensions` d in 1..min(V, D); `probabilities` p [V], >= 0, of each token in running text, or
    `zipf_probabilities(V)`. Returns [V, d] in their dtype, without a graph. Raises ValueError where one does not fit.

    The principal components are of the centred vectors, each token counted once; a component's sign is that which
    makes its largest weight positive, so that the result is the same everywhere (but components of equal variance are
    not unique). The weight is smooth inverse frequency, Arora et al. 2017 (SIF; a = 1e-3 there): a mean over tokens
    then is theirs, less the removal of the common component, for which the centring stands. PCA, then SIF is
    model2vec's recipe (a = 1e-4 there). Choose it as the smallest and fastest student, or as the start of one that is
    then trained by `cosine_distance`.
    """
    vocabulary, width = token_embeddings.shape
    if not 1 <= dimensions <= min(vocabulary, width):
        raise ValueError(
            f"static_embeddings: dimensions is {dimensions}; {vocabulary} tokens of width {width} have 1 to "
            f"{min(vocabulary, width)} principal components"
        )
    if probabilities.shape != (vocabulary,):
        raise ValueError(f"static_embeddings: {list(probabilities.shape)} probabilities for {vocabulary} tokens")
    if bool((probabilities < 0).any()) or not coefficient > 0:
        raise ValueError("static_embeddings: probabilities must be >= 0 and coefficient > 0")
    with torch.no_grad():
        centred = token_embeddings - token_embeddings.mean(0, dtype=torch.float64).to(token_embeddings.dtype)
        components = _principal_components(centred, dimensions).to(centred.dtype)
        weight = coefficient / (coefficient + probabilities.double())
        return (centred @ components) * weight.to(centred).unsqueeze(-1)


def zipf_probabilities(vocabulary: int) -> Tensor:
    """p(r) = (1 / (r + 2)) / sum, r = 0.. the token's rank by frequency: float64 [V], falling, of sum 1.

    Zipf's law as model2vec has it, for vocabularies whose ids are ordered by frequency (WordPiece, Unigram and BPE
    merges are, roughly; special and added tokens are not). Counts from a corpus of your own are better.
    """
    inverse = 1.0 / torch.arange(2, vocabulary + 2, dtype=torch.float64)
    return inverse / inverse.sum()


def _principal_components(centred: Tensor, count: int) -> Tensor:
    """[D, count], float64, of falling variance."""
    width = centred.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64, device=centred.device)
    for block in centred.split(_BLOCK):
        gram.addmm_(block.double().mT, block.double())
    components = torch.linalg.eigh(gram).eigenvectors.flip(-1)[:, :count]
    largest = components.gather(0, components.abs().argmax(0, keepdim=True))
    return components * largest.sign()
