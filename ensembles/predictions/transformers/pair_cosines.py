"""Cosines of pairs of combined vectors, from inner products, and their score."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.rank_correlation import spearman
from ensembles.selection import SELECTIONS


class PairProducts(NamedTuple):
    """Inner products of the members' vectors of both samples of each pair.

    Inner products of combined vectors are linear in them. The last axis has an entry
    for each member, if vectors are concatenated, or for each ordered pair of members,
    if they are averaged.

    Parameters
    ----------
    between : ndarray of shape (n_pairs, n_terms)
        Products of the first sample with the second.
    first, second : ndarray of shape (n_pairs, n_terms)
        Products of the first sample with itself, and of the second with itself.
    concatenated : bool
        Whether vectors are concatenated.
    """

    between: Float64
    first: Float64
    second: Float64
    concatenated: bool

    @property
    def n_members(self) -> int:
        """Number of members."""
        n_terms = int(self.between.shape[1])
        return n_terms if self.concatenated else round(n_terms**0.5)

    def subset(self, rows: Counts) -> PairProducts:
        """Products of some of the pairs.

        Parameters
        ----------
        rows : ndarray of int64
            Indices of the pairs.

        Returns
        -------
        PairProducts
        """
        return self._replace(
            between=self.between[rows], first=self.first[rows], second=self.second[rows]
        )

    def terms(self, weights: Float64) -> Float64:
        """Coefficients of the products in those of the combined vectors.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weights of the members.

        Returns
        -------
        ndarray of shape (n_terms,)
        """
        if self.concatenated:
            return weights * weights
        return np.outer(weights, weights).ravel()

    def cosines(self, terms: Float64) -> Float64:
        """Cosine similarity of each pair of combined vectors; 0 for a zero vector.

        Parameters
        ----------
        terms : ndarray of shape (n_terms,)
            Coefficients of the products.

        Returns
        -------
        ndarray of shape (n_pairs,)
        """
        between, first, second = (part @ terms for part in self[:3])
        squares = first * second
        # Averaged vectors that cancel have a product of about 0, of any sign.
        is_nonzero = (first > 0) & (second > 0)
        cosines = np.zeros(len(between))
        cosines[is_nonzero] = between[is_nonzero] / np.sqrt(squares[is_nonzero])
        return cosines


def pair_products(
    outputs: list[Float64], first: Counts, second: Counts, *, concatenated: bool
) -> PairProducts:
    """Inner products of the members' vectors of pairs of samples, in float64.

    Parameters
    ----------
    outputs : list of ndarrays of shape (n_samples, n_columns)
        Vectors of the samples by each member; of equal width if averaged.
    first, second : ndarray of shape (n_pairs,), int64
        Rows of both samples of each pair.
    concatenated : bool
        Whether the vectors are concatenated, or else averaged.

    Returns
    -------
    PairProducts
    """
    n_members = len(outputs)
    members = [(i, i) for i in range(n_members)]
    if not concatenated:
        members = [(i, j) for i in range(n_members) for j in range(n_members)]
    sides = ((first, second), (first, first), (second, second))
    products = np.empty((len(sides), len(first), len(members)))
    for term, (i, j) in enumerate(members):
        for part, (a, b) in enumerate(sides):
            products[part, :, term] = np.einsum(
                "ij,ij->i", outputs[i][a], outputs[j][b], dtype=np.float64
            )
    between, first_squares, second_squares = products
    return PairProducts(between, first_squares, second_squares, concatenated)


class PairScore:
    """Spearman correlation of the cosines of combined vectors with ratings.

    It is that of the vectors themselves, but for rounding, in time proportional to the
    number of pairs times the number of members (squared, if they are averaged).

    Parameters
    ----------
    products : PairProducts
        Inner products of the members' vectors.
    ratings : ndarray of shape (n_pairs,)
        Rating of each pair; greater is more similar.
    """

    def __init__(self, products: PairProducts, ratings: Float64) -> None:
        self.products = products
        self.ratings = ratings

    def __call__(self, weights: Float64) -> float:
        """Score of weights; greater is better."""
        cosines = self.products.cosines(self.products.terms(weights))
        return float(spearman(cosines, self.ratings))

    def optimum(self) -> Float64:
        """Weights that maximize Pearson's correlation of cosines with rating ranks.

        Spearman's correlation is piecewise constant in the weights; this one is smooth.

        Returns
        -------
        ndarray of shape (n_members,), non-negative, sum 1
        """
        products = self.products
        weights = SELECTIONS["convex"](
            products.n_members, SmoothPairScore(products, self.ratings)
        )
        if products.concatenated:
            weights = np.sqrt(weights)
        return np.asarray(weights / weights.sum())


class SmoothPairScore:
    """Pearson's correlation of the cosines with the ranks of the ratings.

    Of concatenated vectors it takes squared weights, in which their inner products are
    linear: by the weights, its gradient would be zero wherever a weight is.

    Parameters
    ----------
    products : PairProducts
        Inner products of the members' vectors.
    ratings : ndarray of shape (n_pairs,)
        Rating of each pair; greater is more similar.
    """

    def __init__(self, products: PairProducts, ratings: Float64) -> None:
        from scipy.stats import rankdata

        self.products = products
        self.ranks = _standardized(rankdata(ratings))

    def __call__(self, weights: Float64) -> float:
        """Score of weights; greater is better."""
        cosines = self.products.cosines(self._terms(weights))
        return float(_standardized(cosines) @ self.ranks)

    def gradient(self, weights: Float64) -> Float64:
        """Gradient of the score.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weights of the members, or their squares if vectors are concatenated.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        terms = self._terms(weights)
        cosines = self.products.cosines(terms)
        standard = _standardized(cosines)
        length = float(np.linalg.norm(cosines - cosines.mean()))
        if not length:
            return np.zeros(len(weights))
        by_cosine = (self.ranks - (standard @ self.ranks) * standard) / length
        between, first, second = self.products[:3]
        by_terms = np.zeros(len(terms))
        squares = [part @ terms for part in (first, second)]
        rows = (squares[0] > 0) & (squares[1] > 0)
        a, b = squares[0][rows], squares[1][rows]
        by_terms += (by_cosine[rows] / np.sqrt(a * b)) @ between[rows]
        shares = by_cosine[rows] * cosines[rows] / 2
        by_terms -= (shares / a) @ first[rows] + (shares / b) @ second[rows]
        if self.products.concatenated:
            return by_terms
        matrix = by_terms.reshape(len(weights), len(weights))
        return np.asarray((matrix + matrix.T) @ weights)

    def _terms(self, weights: Float64) -> Float64:
        is_linear = self.products.concatenated
        return weights if is_linear else self.products.terms(weights)


def _standardized(values: Float64) -> Float64:
    """Centered values of length 1; zeros if they are constant."""
    centered = values - values.mean()
    length = float(np.linalg.norm(centered))
    return np.asarray(centered / length) if length else centered
