"""Sentence vectors as a scikit-learn transformer: words averaged over a token table."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils.validation import check_is_fitted

from ensembles.embeddings.base import TextTransformer, check_texts
from ensembles.embeddings.pooling.builtin import rules_of
from ensembles.embeddings.postprocessing.projection import (
    Moments,
    check_count,
    fit_projection,
)
from ensembles.embeddings.postprocessing.quantization import (
    cast,
    check_dtype,
    normalized,
)
from ensembles.embeddings.text_average import Average, split_params
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.tokenization.texts import Part, parts_of
from ensembles.embeddings.vectors.lookup import Rows
from ensembles.embeddings.vectors.read import read_vectors
from ensembles.embeddings.weighting.frequencies import frequencies_of
from ensembles.embeddings.weighting.row_weights import weighting_of, weights_of

if TYPE_CHECKING:
    from ensembles.embeddings.persistence.load import LoadedEmbedder


class SentenceEmbedder(TextTransformer):
    r"""Transformer from texts to averages of the vectors of their words.

    The members are words, the weights say how much each counts, a rule turns the words
    of a text into one vector. What `fit` learns, `transform` applies: the vector of a
    text depends on no other text beside it. A text without known words, an empty one,
    None and NaN have a vector of zeros.

    Parameters
    ----------
    vectors : path, mapping, pair or object
        As `read_vectors` takes it: what it returns is shared by clones, so a grid
        search that is given it reads a file once.
    rule : str or list of str, default="mean"
        Of `POOLINGS`; results of several stand side by side.
    weights : {"sif", "usif", "idf", "zipf"}, mapping, array or None, default="sif"
        Of `WEIGHTINGS`; a mapping of word to weight, where words that are not named
        weigh 1; one number for each row; None counts every word once, and is the one
        to take where a classifier follows: frequent words may tell classes apart.
    remove_components : int, default=0
        Directions that most of the sentences given to fit share, taken out of each;
        with "usif" by their shares of the variance. The papers take 1 with "sif" and 5
        with "usif".
    whiten : bool or None, default=None
        Whether to turn to the principal axes of those sentences and scale each to
        variance 1.
    n_components : int or None, default=None
        Keep so many principal axes. None keeps all, and without whitening does not
        turn to them.
    normalize : bool, default=False
        Whether vectors are brought to length 1.
    tokenizer : str, callable, tokenizer or None, default=None
        As `tokens_of` takes it. None is the one that belongs to the vectors, else
        ``\w+``.
    frequencies : mapping, path, {"corpus", "vectors", "zipf"} or None, default=None
        How often words are met: a mapping of word to count, a file with a word and its
        count a line, the texts given to fit, what came with the vectors, or their
        order. None takes the texts given to fit if they hold known words, else the
        vectors' counts, else, with a warning, their order. "idf" always counts texts.
    lowercase : bool or None, default=None
        Whether words are put in small letters. None does it where hardly a token, one
        in a hundred, has a capital. Accents are never taken off.
    unknown : {"skip", "subword", "error"}, default="skip"
        Whether words without a vector are left out, made of their n-grams (fastText;
        they weigh what a word weighs that was never met), or refused.
    dtype : {"float32", "float16", "float64", "int8", "bits"}, default="float32"
        Of the vectors. "int8" has one scale for all, learned in fit, and keeps cosines
        nearly; "bits" the signs, eight to a byte, for Hamming distances.
    params : dict or None, default=None
        Parameters of the rules and the weighting, such as ``{"a": 1e-3, "p": 3}``.
    n_jobs : int or None, default=None
        Threads; None is 1, -1 all processors. The result does not depend on it.

    Attributes
    ----------
    vectors_ : WordVectors
    weights_ : ndarray of shape (n_tokens,), float32, or None
    projection_ : Projection or None
        Components, whitening and principal axes.
    coverage_ : float
        Share of the tokens given to fit that have a vector, as in `coverage`; NaN where
        there was none. Tokens that the tokenizer cuts are estimated from a sample where
        there are more than 16 384 texts.
    scale_ : float or None
        What 127 stands for in "int8".
    lowercase_ : bool

    Examples
    --------
    >>> vectors = {"good": [1.0, 0.0], "bad": [-1.0, 0.0], "film": [0.0, 1.0]}
    >>> embedder = SentenceEmbedder(vectors, weights=None).fit()
    >>> embedder.transform(["Good film", "bad", ""])
    array([[ 0.5,  0.5],
           [-1. ,  0. ],
           [ 0. ,  0. ]], dtype=float32)
    """

    def __init__(
        self,
        vectors: Any,
        *,
        rule: Any = "mean",
        weights: Any = "sif",
        remove_components: int = 0,
        whiten: bool | None = None,
        n_components: int | None = None,
        normalize: bool = False,
        tokenizer: Any = None,
        frequencies: Any = None,
        lowercase: bool | None = None,
        unknown: str = "skip",
        dtype: Any = "float32",
        params: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.vectors = vectors
        self.rule = rule
        self.weights = weights
        self.remove_components = remove_components
        self.whiten = whiten
        self.n_components = n_components
        self.normalize = normalize
        self.tokenizer = tokenizer
        self.frequencies = frequencies
        self.lowercase = lowercase
        self.unknown = unknown
        self.dtype = dtype
        self.params = params
        self.n_jobs = n_jobs

    def fit(self, X: Any = None, y: Any = None) -> SentenceEmbedder:
        """Read the vectors, and learn weights and components from texts.

        Parameters
        ----------
        X : iterable or column of str, or None, default=None
            None is enough where nothing is learned from texts.
        y : None
            Not used.

        Returns
        -------
        self
        """
        rules, weighting = rules_of(self.rule), weighting_of(self.weights)
        by_rule, own = split_params(self.params, rules, weighting)
        dtype = check_dtype(self.dtype)
        parts = [] if X is None else parts_of(check_texts(X))
        vectors = read_vectors(self.vectors)
        if vectors.weighted and weighting is not None:
            warnings.warn(
                f"{vectors.source} is made for a plain mean: its vectors have word "
                f"weights in them, to which {weighting.name!r} adds; weights=None, "
                f"normalize={bool(vectors.normalize)} gives what its model gives",
                stacklevel=2,
            )
        rows = Rows(vectors, self.tokenizer, self.lowercase, self.unknown)
        met = rows.count(parts)
        frequencies = None
        if weighting is not None:
            needed = weighting.needs == "counts"
            source = self.frequencies if needed else "zipf"
            frequencies = frequencies_of(source, rows, met)
        found, unmet = weights_of(self.weights, frequencies, rows, own)
        divide = "weights" if weighting is None else weighting.divide
        self._average = Average(rows, rules, found, unmet, divide, by_rule)
        rows.warn_of_coverage(parts, met.coverage)
        self.vectors_, self.weights_ = vectors, found
        self.coverage_, self.lowercase_ = met.coverage, rows.lowercase
        self._counted_by = None if frequencies is None else frequencies.source
        self._dtype, self._normalize = dtype, bool(self.normalize)
        piecewise = weighting is not None and weighting.piecewise
        self._learn(parts, piecewise)
        return self

    def _learn(self, parts: list[Part], piecewise: bool) -> None:
        """Learn projection and scale from the sentences of the training texts."""
        average, n_threads = self._average, self._n_threads()
        remove, n_columns = self.remove_components, average.n_columns
        check_count("remove_components", remove, 0, n_columns)
        if self.n_components is not None:
            check_count("n_components", self.n_components, 1, n_columns)
        self.projection_, self.scale_ = None, None
        if remove or self.whiten or self.n_components is not None:
            moments = Moments(n_columns)
            for block in average.blocks(parts, n_threads):
                moments.add(block)
            self.projection_ = fit_projection(
                moments,
                remove=remove,
                piecewise=piecewise,
                whiten=bool(self.whiten),
                n_components=self.n_components,
            )
        self._n_features_out = n_columns
        if self.projection_ is not None:
            self._n_features_out = self.projection_.matrix.shape[1]
        if self._dtype == "int8":
            self.scale_ = self._largest(parts)
        if self._dtype == "bits":
            self._n_features_out = -(-self._n_features_out // 8)

    def _largest(self, parts: list[Part]) -> float:
        """Largest magnitude among the training vectors."""
        blocks = self._average.blocks(parts, self._n_threads())
        found = max((float(np.abs(self._end(b)).max()) for b in blocks), default=0.0)
        if not found:
            raise ValueError(
                "dtype='int8' must have texts with known words in fit, to learn its "
                "scale from"
            )
        return found

    def transform(self, X: Any) -> Any:
        """Vectors of texts.

        Parameters
        ----------
        X : iterable or column of str
            None, NaN and missing values count as empty texts.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out), of ``dtype``
        """
        if not hasattr(self, "_average"):  # which takes less time than the check
            check_is_fitted(self)
        found = self._end(self._average(check_texts(X), self._n_threads()))
        return cast(found, self._dtype, self.scale_ or 1.0)

    def counted(self, X: Any, coverage: Coverage) -> Any:
        """Vectors of texts as `transform` gives them, their tokens counted by the way.

        Parameters
        ----------
        X : sequence or column of str
        coverage : Coverage
            What is added to.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out), of ``dtype``
        """
        check_is_fitted(self)
        found = self._average(check_texts(X), self._n_threads(), coverage)
        return cast(self._end(found), self._dtype, self.scale_ or 1.0)

    def coverage(self, X: Any) -> Any:
        """Share of each text's tokens that have a vector.

        A token of the vectors that stands between white space in a text, but which the
        tokenizer cuts or leaves out, as ``c++`` or an emoji, counts as one without.

        Parameters
        ----------
        X : iterable or column of str

        Returns
        -------
        ndarray of shape (n_texts,), NaN for a text without tokens
        """
        check_is_fitted(self)
        parts = parts_of(check_texts(X))
        found = [self._average.rows.coverage(part) for part in parts]
        return np.concatenate([np.empty(0), *found])

    def _end(self, vectors: Any) -> Any:
        if self.projection_ is not None:
            vectors = self.projection_(vectors)
        return normalized(vectors) if self._normalize else vectors

    def _n_threads(self) -> int:
        # Asked of joblib it takes as long as to find a sentence's words.
        return 1 if self.n_jobs is None else int(effective_n_jobs(self.n_jobs))

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the fitted embedder to a directory of safetensors and JSON.

        Parameters
        ----------
        path : path
            The directory that is written, atomically.
        force : bool, default=False
            Whether an existing directory is replaced.

        See Also
        --------
        ensembles.embeddings.persistence.save : What the directory holds.
        """
        from ensembles.embeddings.persistence.save import save
        from ensembles.embeddings.persistence.saved_embedder import SavedEmbedder

        check_is_fitted(self)
        average = self._average
        saved = SavedEmbedder(
            params=self.get_params(deep=False),
            rows=average.rows,
            rules=average.rules,
            weights=self.weights_,
            unmet=average.unmet,
            divide=average.divide,
            projection=self.projection_,
            normalize=self._normalize,
            dtype=self._dtype,
            scale=self.scale_,
            coverage=self.coverage_,
            n_features_out=self._n_features_out,
        )
        save(saved, path, force=force)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SentenceEmbedder:
        """Fitted embedder from a directory that `save` wrote.

        Parameters
        ----------
        path : path
            The directory.

        Returns
        -------
        SentenceEmbedder
            One whose table is folded has no weights and components of its own: they
            are part of its vectors. Its clones, fitted, are the same; those of int8
            have to be fitted to texts, for its scale.

        Raises
        ------
        ValueError
            If the directory is not one that `save` wrote.
        """
        from ensembles.embeddings.persistence.load import load

        try:
            loaded = load(path)
            dtype = check_dtype(loaded.params.pop("dtype"))
            embedder = cls(str(path), weights=None, **loaded.params).fit()
            embedder.dtype = embedder._dtype = dtype
            if loaded.learned_params:
                embedder.set_params(**loaded.learned_params)
                embedder._restore(loaded)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no saved SentenceEmbedder: {error!r}; a model of others is "
                "read by SentenceEmbedder(path, weights=None).fit()"
            ) from None
        embedder.scale_, embedder.coverage_ = loaded.scale, loaded.coverage
        embedder._n_features_out = loaded.n_features_out
        return embedder

    def _restore(self, loaded: LoadedEmbedder) -> None:
        """Take what was learned before, instead of learning it."""
        if self.weights is None:  # they were given, not learned
            self.weights = loaded.row_weights
        rules, weighting = rules_of(self.rule), weighting_of(self.weights)
        by_rule, _ = split_params(self.params, rules, weighting)
        rows, weights = self._average.rows, loaded.row_weights
        unmet, divide = loaded.unmet, loaded.divide
        self._average = Average(rows, rules, weights, unmet, divide, by_rule)
        self.weights_, self.projection_ = weights, loaded.projection
