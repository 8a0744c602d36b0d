"""Members that are sentence encoders, compared by human similarity ratings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ensembles._typing import Float64
from ensembles.checkpoints.model_soup.merged_estimator import (
    MergedEstimator,
    build_merged_estimator,
)
from ensembles.embeddings.auto_model import load_model
from ensembles.embeddings.encoder import SentenceEncoder
from ensembles.embeddings.similarity.evaluation import Pairs, pair_similarities
from ensembles.reports.members import Members
from ensembles.reports.scores import spearman_scorer
from ensembles.rules.builtin import RULES

MOST_PAIRS = 16  # that costs are measured on: 32 texts, a batch of SentenceEncoder


class TextPairs:
    """Pairs of texts with a length, as the input of a predictor.

    Parameters
    ----------
    pairs : Pairs
        Texts and ratings.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs.scores)

    def first(self, n_pairs: int) -> TextPairs:
        """First pairs."""
        first, second, scores = self.pairs
        return TextPairs(Pairs(first[:n_pairs], second[:n_pairs], scores[:n_pairs]))


class PairPredictor:
    """Cosine similarity of text pairs, as the prediction of a text transformer.

    Parameters
    ----------
    encoder : fitted text transformer
        Model whose ``transform`` returns one vector per text.
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def predict(self, X: TextPairs) -> Float64:
        """Cosine similarity of each pair.

        Parameters
        ----------
        X : TextPairs
            Pairs of texts.

        Returns
        -------
        ndarray of shape (n_pairs,)
        """
        return pair_similarities(self.encoder, X.pairs)


def encoder_members(
    members: Sequence[Any], names: list[str], soup_params: Mapping[str, Any]
) -> Members:
    """Members that are text transformers or their directories.

    Parameters
    ----------
    members : sequence of paths, SentenceTransformer or fitted text transformers
        Members; directories are opened by `load_model`, one at a time.
    names : list of str
        Name of each member.
    soup_params : mapping of str to value
        Arguments of `build_merged_estimator`.

    Returns
    -------
    Members
    """
    members = [_as_transformer(member) for member in members]

    def load(index: int) -> Any:
        member = members[index]
        return load_model(member) if isinstance(member, str | os.PathLike) else member

    @cache
    def merge() -> MergedEstimator:
        first = members[0]
        is_path = isinstance(first, str | os.PathLike)
        return build_merged_estimator(
            SentenceEncoder(str(first)) if is_path else first,
            members,
            names,
            rule=RULES["mean"],
            params={},
            **soup_params,
        )

    return Members(
        names=names,
        load=load,
        predictor=PairPredictor,
        merge=merge,
        first=_first,
        scoring=spearman_scorer,
        is_classifier=False,
        prediction="pair of texts",
        notes=["the prediction ensemble is the mean of the cosine similarities"],
    )


def _as_transformer(member: Any) -> Any:
    """Member with a method ``transform``, unless it is a path."""
    if hasattr(member, "encode") and not isinstance(member, str | SentenceEncoder):
        return SentenceEncoder(member).fit()
    return member


def _first(X: TextPairs, batch_size: int) -> tuple[TextPairs, int]:
    batch = X.first(min(batch_size, MOST_PAIRS))
    return batch, len(batch)
