"""SentenceEmbedder, a scikit-learn transformer from texts to averaged word vectors."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils.validation import check_is_fitted

from ensembles._sklearn import check_bool, check_choice, check_n_jobs
from ensembles.embeddings.base import TextTransformer, check_texts
from ensembles.embeddings.persistence.load import load
from ensembles.embeddings.persistence.save import SavedEmbedder, save
from ensembles.embeddings.pooling.builtin import resolve_poolings, split_rule_params
from ensembles.embeddings.postprocessing.projection import (
    Moments,
    Projection,
    check_count,
    fit_projection,
    project,
)
from ensembles.embeddings.postprocessing.quantization import check_dtype, quantize
from ensembles.embeddings.text_average import TextAverager
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.tokenization.texts import TextBatch, as_batches
from ensembles.embeddings.vectors.lookup import UNKNOWN, VocabularyLookup
from ensembles.embeddings.vectors.read import read_vectors
from ensembles.embeddings.weighting.frequencies import resolve_frequencies
from ensembles.embeddings.weighting.row_weights import resolve_weighting, row_weights


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
        Pooling of the words: "mean", "maximum", "minimum", "power_mean" or
        "hierarchical". The results of several are concatenated.
    rule_params : dict or None, default=None
        Parameters of the rules, such as ``{"p": 5}`` of "power_mean"; a value applies
        to each rule that has a parameter of this name. None uses the defaults.
    weights : {"sif", "usif", "idf", "zipf"}, mapping, array or None, default="sif"
        Word weights: a name of `WEIGHTINGS`; a mapping of word to weight, in which
        missing words weigh 1; or an array with one weight per token of the vectors.
        None weighs every word equally. It often suits a downstream classifier best,
        because frequent words may discriminate between classes.
    weights_params : dict or None, default=None
        Parameters of the weighting, e.g. ``{"a": 1e-3}``. None uses the defaults.
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
        "whitespace", a regular expression whose matches are the words, a callable from
        a text to its words, or a Hugging Face tokenizer. None uses the tokenizer that
        comes with the vectors, else words as in ``\w+``.
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
        Handling of out-of-vocabulary words: leave them out, compose their vectors from
        character n-grams (fastText), or raise ValueError. Composed words have the
        weight of a word with count zero.
    dtype : {"float32", "float16", "float64", "int8", "binary"}, default="float32"
        Data type of the vectors that `transform` returns. "int8" quantizes with one
        scale for all, learned in `fit`, and approximately preserves cosines; "binary"
        packs the signs, eight per byte (uint8), for Hamming distances.
    n_jobs : int or None, default=None
        Number of threads; None is 1, -1 all processors. Results do not depend on it.

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

    See Also
    --------
    SentenceEncoder : Vectors from a sentence-transformers model.
    read_vectors : Formats of word vectors, and conversion in memory.
    evaluate_similarity : Compare cosines with human similarity ratings.

    Notes
    -----
    ``weights="sif"`` with ``remove_components=1`` is SIF [1]_, ``weights="usif"`` with
    ``remove_components=5`` is uSIF [2]_. References of the other rules and weights are
    in the docstrings of the entries of ``POOLINGS`` and ``WEIGHTINGS``.

    References
    ----------
    .. [1] Arora, Liang & Ma (2017), "A simple but tough-to-beat baseline for sentence
       embeddings", ICLR.
    .. [2] Ethayarajh (2018), "Unsupervised random walk sentence embeddings: a strong
       but simple baseline", Workshop on Representation Learning for NLP.

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
        rules = resolve_poolings(self.rule)
        rule_params = split_rule_params(rules, self.rule_params)
        weighting = resolve_weighting(self.weights, self.weights_params)
        self._check_parameters()
        batches = [] if X is None else as_batches(check_texts(X))
        vectors = read_vectors(self.vectors)
        if vectors.preweighted and weighting is not None:
            prefix = "" if vectors.normalize else "no-"
            warnings.warn(
                f"the vectors of {vectors.source} already contain word weights, to "
                f"which {weighting.name!r} adds; to match its own model, pass "
                "weights=None (--weights none) and "
                f"normalize={bool(vectors.normalize)} (--{prefix}normalize)",
                stacklevel=2,
            )
        lookup = VocabularyLookup(vectors, self.tokenizer, self.lowercase, self.unknown)
        counts = lookup.count(batches)
        frequencies = None
        if weighting is not None:
            source = self.frequencies if weighting.needs == "counts" else "zipf"
            frequencies = resolve_frequencies(source, lookup, counts)
        weights, oov_weight = row_weights(
            self.weights, frequencies, lookup, dict(self.weights_params or {})
        )
        averager = TextAverager(
            *(lookup, rules, rule_params, weights, oov_weight),
            divide="weights" if weighting is None else weighting.divide,
        )
        lookup.warn_low_coverage(batches, counts.coverage)
        by_variance_share = weighting is not None and weighting.by_variance_share
        projection = self._fit_projection(averager, batches, by_variance_share)
        dtype, scale = check_dtype(self.dtype), 0.0
        if dtype == "int8":
            scale = self._fit_scale(averager, projection, batches)
        saved = SavedEmbedder(
            self.get_params(deep=False),
            averager,
            projection,
            normalize=bool(self.normalize),
            dtype=dtype,
            scale=scale or None,
            coverage=counts.coverage,
        )
        self._set_fitted(saved, None if frequencies is None else frequencies.source)
        return self

    def _check_parameters(self) -> None:
        """Raise for wrong values before the vectors are read, which takes minutes."""
        check_bool("whiten", self.whiten, optional=True)
        check_bool("normalize", self.normalize)
        check_bool("lowercase", self.lowercase, optional=True)
        check_choice("unknown", self.unknown, UNKNOWN)
        check_count("remove_components", self.remove_components, 0)
        if self.n_components is not None:
            check_count("n_components", self.n_components, 1)
        check_dtype(self.dtype)
        check_n_jobs(self.n_jobs)

    def _set_fitted(self, saved: SavedEmbedder, frequency_source: str | None) -> None:
        """Set the fitted attributes: at the end of `fit`, which may fail before."""
        self._averager = saved.averager
        self.vectors_ = saved.averager.lookup.vectors
        self.weights_ = saved.averager.weights
        self.lowercase_ = saved.averager.lookup.lowercase
        self.projection_, self.scale_ = saved.projection, saved.scale
        self.coverage_, self._frequency_source = saved.coverage, frequency_source
        self._dtype, self._normalize = saved.dtype, saved.normalize
        self._n_features_out = saved.n_features_out

    def _fit_projection(
        self,
        averager: TextAverager,
        batches: list[TextBatch],
        by_variance_share: bool,
    ) -> Projection | None:
        remove, n_columns = self.remove_components, averager.n_columns
        check_count("remove_components", remove, 0, n_columns)
        if self.n_components is not None:
            check_count("n_components", self.n_components, 1, n_columns)
        if not remove and not self.whiten and self.n_components is None:
            return None
        moments = Moments(n_columns)
        for block in averager.blocks(batches, self._n_threads()):
            moments.add(block)
        return fit_projection(
            moments,
            remove=remove,
            by_variance_share=by_variance_share,
            whiten=bool(self.whiten),
            n_components=self.n_components,
        )

    def _fit_scale(
        self,
        averager: TextAverager,
        projection: Projection | None,
        batches: list[TextBatch],
    ) -> float:
        """Largest absolute entry of the training vectors."""
        largest = 0.0
        for block in averager.blocks(batches, self._n_threads()):
            vectors = project(block, projection, normalize=self.normalize)
            largest = max(largest, float(np.abs(vectors).max()))
        if not largest:
            raise ValueError(
                "dtype='int8' (--dtype int8) requires texts with known words in fit "
                "for its scale"
            )
        return largest

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
        if not hasattr(self, "_averager"):  # faster than check_is_fitted
            check_is_fitted(self)
        return self._vectors(X, None)

    def transform_counted(self, X: Any, coverage: Coverage) -> Any:
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
        return self._vectors(X, coverage)

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
        coverage = self._averager.lookup.coverage
        shares = [coverage(batch) for batch in as_batches(check_texts(X))]
        return np.concatenate([np.empty(0), *shares])

    def _vectors(self, X: Any, coverage: Coverage | None) -> Any:
        """Pooled, projected, normalized and quantized vectors."""
        options: Any = {"normalize": self._normalize, "coverage": coverage}
        texts, n_threads = check_texts(X), self._n_threads()
        average = self._averager.projected
        vectors = average(texts, n_threads, self.projection_, **options)
        return quantize(vectors, self._dtype, self.scale_ or 1.0)

    def _n_threads(self) -> int:
        # joblib's call takes as long as tokenizing a sentence.
        return 1 if self.n_jobs is None else int(effective_n_jobs(self.n_jobs))

    def save(
        self, path: Any, *, table_dtype: str | None = None, force: bool = False
    ) -> None:
        """Write the fitted embedder to a directory of safetensors and JSON.

        Parameters
        ----------
        path : path
            Output directory; it is written atomically.
        table_dtype : {"float32", "float16", "int8"} or None, default=None
            Data type of the word vectors in the file; "int8" has a scale per word. None
            keeps that of vectors that are saved unchanged, and is float32 otherwise.
        force : bool, default=False
            Whether to replace an existing directory.

        Raises
        ------
        ValueError
            If ``table_dtype`` is wrong or too narrow, the tokenizer is a callable, or
            vectors are composed from n-grams (``unknown="subword"``).
        FileExistsError
            If the directory exists and ``force`` is False.
        """
        save(self._state(), path, table_dtype=table_dtype, force=force)

    def _state(self) -> SavedEmbedder:
        """What `save` writes: parameters, vectors, word weights and projection."""
        check_is_fitted(self)
        return SavedEmbedder(
            self.get_params(deep=False),
            self._averager,
            self.projection_,
            normalize=self._normalize,
            dtype=self._dtype,
            scale=self.scale_,
            coverage=self.coverage_,
        )

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
        FileNotFoundError
            If the directory does not exist.
        ValueError
            If a file is damaged, or `save` did not write the directory.
        """
        embedder = cls(**(saved := load(path)).params)
        embedder._set_fitted(saved, frequency_source=None)
        return embedder
