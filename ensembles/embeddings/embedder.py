"""SentenceEmbedder, a scikit-learn transformer from texts to averaged word vectors."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils.validation import check_is_fitted

from ensembles.embeddings.base import TextTransformer, check_texts
from ensembles.embeddings.pooling.builtin import rules_of, split_rule_params
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
from ensembles.embeddings.text_average import Average
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.tokenization.texts import Part, parts_of
from ensembles.embeddings.vectors.lookup import Rows
from ensembles.embeddings.vectors.read import read_vectors
from ensembles.embeddings.weighting.frequencies import frequencies_of
from ensembles.embeddings.weighting.row_weights import weighting_of, weights_of

if TYPE_CHECKING:
    from ensembles.embeddings.persistence.load import LoadedEmbedder


class SentenceEmbedder(TextTransformer):
    r"""Text transformer that averages the vectors of the words of each text.

    The members are the words of a text, word weights scale their contributions, and a
    pooling rule combines them into one vector. `fit` learns the word weights and the
    projection; the vector of a text does not depend on the other texts passed to
    `transform`. Texts without known words, empty texts, None and NaN get a zero vector.

    Parameters
    ----------
    vectors : path, mapping, pair or object
        Word vectors in any form that `read_vectors` accepts. Clones share a
        `WordVectors` object, so a grid search over one reads the file only once.
    rule : str or list of str, default="mean"
        Names of `POOLINGS`; the results of several are concatenated.
    rule_params : dict or None, default=None
        Parameters of the rules, such as ``{"p": 5}`` of "power_mean"; a value applies
        to each rule that has a parameter of this name. None uses the defaults.
    weights : {"sif", "usif", "idf", "zipf"}, mapping, array or None, default="sif"
        Word weights: a name of `WEIGHTINGS`; a mapping of word to weight, in which
        missing words weigh 1; or an array with one weight per token of the vectors.
        None weighs every word equally. It often suits a downstream classifier best,
        because frequent words may discriminate between classes.
    weights_params : dict or None, default=None
        Parameters of the word weighting, such as ``{"a": 1e-3}`` of "sif". None uses
        the defaults.
    remove_components : int, default=0
        Number of leading singular vectors of the training sentence vectors to remove
        from every vector; "usif" removes each in proportion to its share of the
        variance. The papers use 1 with "sif" and 5 with "usif".
    whiten : bool or None, default=None
        Whether to rotate the vectors to the principal axes of the training sentences
        and scale each axis to variance 1. None does not.
    n_components : int or None, default=None
        Number of principal axes to keep. None keeps all, and does not rotate the
        vectors unless ``whiten`` is set.
    normalize : bool, default=False
        Whether to L2-normalize the vectors.
    tokenizer : str, callable, tokenizer or None, default=None
        Tokenizer as in `tokens_of`. None uses the tokenizer that comes with the
        vectors, else words as in ``\w+``.
    frequencies : mapping, path, {"corpus", "vectors", "zipf"} or None, default=None
        Source of the word counts: a mapping of word to count, a file with one word and
        its count per line, the training texts ("corpus"), the counts stored with the
        vectors ("vectors"), or the order of the vectors ("zipf"). None uses the
        training texts if they contain known words, else the vectors' counts, else,
        with a warning, their order. "idf" always counts documents in the training
        texts.
    lowercase : bool or None, default=None
        Whether to lowercase words before the lookup. None lowercases if at most 1 % of
        the tokens in the vocabulary contain a capital letter, and never with a Hugging
        Face tokenizer. Accents are never stripped.
    unknown : {"skip", "subword", "error"}, default="skip"
        Treatment of out-of-vocabulary words: leave them out, compose their vectors
        from character n-grams (fastText; they get the weight of a word with count
        zero), or raise ValueError.
    dtype : {"float32", "float16", "float64", "int8", "bits"}, default="float32"
        Data type of the vectors. "int8" quantizes with one scale for all, learned in
        `fit`, and approximately preserves cosines; "bits" packs the signs, eight per
        byte, for Hamming distances.
    n_jobs : int or None, default=None
        Number of threads; None is 1, -1 all processors. The result does not depend on
        it.

    Attributes
    ----------
    vectors_ : WordVectors
        The vectors that were read.
    weights_ : ndarray of shape (n_tokens,), float32, or None
        Weight of each token of the vectors; None if all are equal.
    projection_ : Projection or None
        Component removal, whitening and principal axes; None if none was requested.
    coverage_ : float
        Share of the training tokens that have a vector, as in `coverage`; NaN without
        training tokens. From 32,768 texts on, the number of tokens that the tokenizer
        splits or drops is estimated from a sample.
    scale_ : float or None
        Magnitude that "int8" maps to 127; None for other dtypes.
    lowercase_ : bool
        Whether words are lowercased.

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
        rule_params: dict[str, Any] | None = None,
        weights: Any = "sif",
        weights_params: dict[str, Any] | None = None,
        remove_components: int = 0,
        whiten: bool | None = None,
        n_components: int | None = None,
        normalize: bool = False,
        tokenizer: Any = None,
        frequencies: Any = None,
        lowercase: bool | None = None,
        unknown: str = "skip",
        dtype: Any = "float32",
        n_jobs: int | None = None,
    ) -> None:
        self.vectors = vectors
        self.rule = rule
        self.rule_params = rule_params
        self.weights = weights
        self.weights_params = weights_params
        self.remove_components = remove_components
        self.whiten = whiten
        self.n_components = n_components
        self.normalize = normalize
        self.tokenizer = tokenizer
        self.frequencies = frequencies
        self.lowercase = lowercase
        self.unknown = unknown
        self.dtype = dtype
        self.n_jobs = n_jobs

    def fit(self, X: Any = None, y: Any = None) -> SentenceEmbedder:
        """Read the vectors, and learn word weights and components from texts.

        Parameters
        ----------
        X : iterable or column of str, or None, default=None
            Training texts. None suffices if no parameter is learned from texts.
        y : None
            Not used.

        Returns
        -------
        self
            The fitted embedder.
        """
        rules = rules_of(self.rule)
        by_rule = split_rule_params(rules, self.rule_params)
        weighting = weighting_of(self.weights, self.weights_params)
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
        found, unmet = weights_of(
            self.weights, frequencies, rows, dict(self.weights_params or {})
        )
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
        """Learn the projection and the int8 scale from the training vectors."""
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
        """Largest absolute entry of the training vectors."""
        blocks = self._average.blocks(parts, self._n_threads())
        found = max((float(np.abs(self._end(b)).max()) for b in blocks), default=0.0)
        if not found:
            raise ValueError(
                "dtype='int8' must have texts with known words in fit, to learn its "
                "scale from"
            )
        return found

    def transform(self, X: Any) -> Any:
        """Average the word vectors of each text.

        Parameters
        ----------
        X : iterable or column of str
            Texts. None, NaN and other missing values count as empty texts.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out), of ``dtype``
            One vector per text.
        """
        if not hasattr(self, "_average"):  # faster than check_is_fitted
            check_is_fitted(self)
        found = self._end(self._average(check_texts(X), self._n_threads()))
        return cast(found, self._dtype, self.scale_ or 1.0)

    def counted(self, X: Any, coverage: Coverage) -> Any:
        """Average word vectors as `transform` does, and count the tokens.

        Parameters
        ----------
        X : sequence or column of str
            Texts. None, NaN and other missing values count as empty texts.
        coverage : Coverage
            Counter to which the numbers of texts and tokens are added.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out), of ``dtype``
            One vector per text.
        """
        check_is_fitted(self)
        found = self._average(check_texts(X), self._n_threads(), coverage)
        return cast(self._end(found), self._dtype, self.scale_ or 1.0)

    def coverage(self, X: Any) -> Any:
        """Share of each text's tokens that have a vector.

        A whitespace-delimited token of the vocabulary that the default tokenizer splits
        or drops, such as ``c++`` or an emoji, counts as a token without a vector.

        Parameters
        ----------
        X : iterable or column of str
            Texts. None, NaN and other missing values count as empty texts.

        Returns
        -------
        ndarray of shape (n_texts,)
            Shares from 0 to 1; NaN for a text without tokens.
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
        # joblib's call takes as long as tokenizing a sentence.
        return 1 if self.n_jobs is None else int(effective_n_jobs(self.n_jobs))

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the fitted embedder to a directory of safetensors and JSON.

        Parameters
        ----------
        path : path
            Output directory; it is written atomically.
        force : bool, default=False
            Whether to replace an existing directory.

        Raises
        ------
        ValueError
            If the tokenizer is a callable, or ``unknown="subword"`` composes vectors
            from n-grams.
        FileExistsError
            If the directory exists and ``force`` is False.

        See Also
        --------
        ensembles.embeddings.persistence.save : Contents of the directory.
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
        """Load a fitted embedder from a directory written by `save`.

        Parameters
        ----------
        path : path
            Directory that `save` wrote.

        Returns
        -------
        SentenceEmbedder
            The fitted embedder. If `save` folded word weights and components into the
            vector table, it has ``weights=None`` and no projection. Its clones, once
            fitted, return the same vectors; with ``dtype="int8"`` they must be fitted
            to texts to learn the scale.

        Raises
        ------
        ValueError
            If the directory was not written by `save`.
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
        """Restores the learned weights and projection of a saved embedder."""
        if self.weights is None:  # only names of weightings are saved
            self.weights = loaded.row_weights
        rules = rules_of(self.rule)
        by_rule = split_rule_params(rules, self.rule_params)
        rows, weights = self._average.rows, loaded.row_weights
        unmet, divide = loaded.unmet, loaded.divide
        self._average = Average(rows, rules, weights, unmet, divide, by_rule)
        self.weights_, self.projection_ = weights, loaded.projection
