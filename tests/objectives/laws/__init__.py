"""Which laws hold for which objective, and why the others don't, a family a file. A missing kind fails a test."""

from objectives.laws.batch import BatchEntry
from objectives.laws.embedding import EMBEDDING_BATCHES, EMBEDDINGS
from objectives.laws.entry import Entry
from objectives.laws.feature import FEATURES
from objectives.laws.relation import RELATIONS
from objectives.laws.response import RESPONSE, RESPONSE_BATCH
from objectives.laws.sequence import SEQUENCES
from objectives.laws.sparse import SPARSE
from objectives.laws.supervised import SUPERVISED

TABLE = [*RESPONSE, *FEATURES, *SUPERVISED, *EMBEDDINGS, *SEQUENCES, *SPARSE]
"""Row objectives."""

BATCH_TABLE = [*RELATIONS, *RESPONSE_BATCH, *EMBEDDING_BATCHES]
"""Batch objectives."""

__all__ = ["BATCH_TABLE", "TABLE", "BatchEntry", "Entry"]
