"""`distill`: a table of token vectors whose means approximate a teacher's vectors."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray

from ensembles._sklearn import check_n_jobs
from ensembles._typing import Float32
from ensembles.embeddings.base import check_texts
from ensembles.embeddings.distillation.alignment import align, fit_alignment
from ensembles.embeddings.distillation.refinement import refine
from ensembles.embeddings.distillation.ridge import fit_ridge
from ensembles.embeddings.distillation.teacher_vectors import (
    teacher_vectors,
    warn_of_other_vectors,
)
from ensembles.embeddings.distillation.teachers import open_teacher, tokenizer_of
from ensembles.embeddings.distillation.vocabulary import (
    make_vocabulary,
    sif_weights,
    token_texts,
    tokenize,
)
from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.postprocessing.projection import check_count
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows
from ensembles.embeddings.tokenization.texts import as_batches, decode_utf8
from ensembles.orthogonal_maps import principal_axes
from ensembles.parallel import chunks

Progress = Callable[[str, int, int], None]
BLOCK = 4096  # vectors converted to float32 at once
PHRASE_PENALTY = 5  # ridge penalty of a phrase, in units of that of a token
N_SCALED = 20_000  # texts on which the starting table is scaled
KINDS = TEXTS, _ = "texts", "tokens"  # what the teacher embeds


class Corpus(NamedTuple):
    """Distinct training texts.

    Attributes
    ----------
    texts : list of str
        Distinct texts, without empty ones, in the order of their first occurrence.
    weights : ndarray of shape (n_texts,), float32
        Number of occurrences of each.
    """

    texts: list[str]
    weights: Float32


def distill(
    teacher: Any,
    texts: Iterable[str],
    *,
    tokenizer: Any = None,
    n_words: int = 30_000,
    alpha: float = 0.2,
    n_iter: int = 10,
    n_epochs: int = 0,
    n_components: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: Progress | None = None,
    n_phrases: int = 0,
) -> SentenceEmbedder:
    """Distill sentence encoders into a table of token vectors, which are averaged.

    The teacher embeds the texts. Ridge regression then finds token vectors whose sum
    over a text, divided by the square root of its number of tokens, approximates the
    teacher's vector of the text. Tokens that occur in no text keep the teacher's vector
    of the token alone, scaled by its SIF weight.

    Parameters
    ----------
    teacher : path, SentenceTransformer, fitted text transformer, or list of these
        Model whose vectors are approximated. A path is opened by `load_model`, a
        transformer in bfloat16 if the processor has instructions for it; a loaded model
        keeps its data type. The L2-normalized vectors of several teachers are averaged:
        after an orthogonal rotation to the space of the first if they have equal
        lengths, else on the leading principal axes of their concatenation.
    texts : iterable of str
        Training texts in the domain and language of the texts to embed; some 100,000
        sentences suffice. A text that occurs several times counts as often. Empty texts
        are left out.
    tokenizer : None, "words" or tokenizers.Tokenizer, default=None
        Tokens of the table. None uses the tokenizer of the first teacher. "words" uses
        the most frequent words of the texts; with a WordPiece tokenizer of the first
        teacher, other words are divided into its subword tokens.
    n_words : int, default=30_000
        Maximum number of words of ``tokenizer="words"``.
    alpha : float, default=0.2
        Ridge penalty on the distance to the vectors of the tokens alone.
    n_iter : int, default=10
        Number of iterations of conjugate gradients.
    n_epochs : int, default=0
        Number of passes of stochastic gradient descent on the cosine distance after the
        regression. With all-MiniLM-L6-v2, two passes changed STS-B by at most 0.3
        points, and cost SICK half a point.
    n_components : int or None, default=None
        Number of principal axes of the training texts to keep. None keeps the space of
        the teacher, so that cosines with the teacher's vectors remain meaningful.
    cache : path or None, default=None
        Directory for the teacher's vectors. A run that was killed continues there, and
        other parameters can be tried without the teacher. None keeps them in memory.
    seed : int, default=0
        Seed of the order of the texts in the refinement.
    n_jobs : int or None, default=None
        Number of threads; None is 1, -1 all processors. The result does not depend on
        it.
    progress : callable (str, int, int) or None, default=None
        Called with the name of a stage, the number of its finished steps and their
        total.
    n_phrases : int, default=0
        Maximum number of phrases, pairs of adjacent tokens that occur at least five
        times, which have vectors of their own beside those of their tokens. With
        all-MiniLM-L6-v2, 200,000 phrases raised the correlation of SICK by 3.5 points
        and that of STS-B by 0.4; they double the time of the regression at least, and
        model2vec and sentence-transformers do not read the saved directory.

    Returns
    -------
    SentenceEmbedder
        Fitted embedder with L2-normalized vectors. The directory that its ``save``
        writes is also read by model2vec and sentence-transformers, unless it has
        phrases.

    Raises
    ------
    ValueError
        If there are no texts or no teacher, a teacher returns NaN, the first teacher
        has no tokenizer and ``tokenizer`` is None, or a parameter is out of range.
    TypeError
        If a teacher or the tokenizer is of an unsupported type.

    Warns
    -----
    UserWarning
        If texts are longer than a teacher reads, or ``cache`` has only vectors of other
        texts or teachers.

    See Also
    --------
    SentenceEmbedder : The class of the result.
    evaluate_similarity : Comparison with the teacher on rated pairs.

    References
    ----------
    Hoerl & Kennard (1970), "Ridge regression: biased estimation for nonorthogonal
    problems", Technometrics 12; Arora, Liang & Ma (2017), "A simple but tough-to-beat
    baseline for sentence embeddings", ICLR (SIF weights).

    Examples
    --------
    A small teacher; others are directories of transformers, such as all-MiniLM-L6-v2.

    >>> from sklearn.decomposition import TruncatedSVD
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> texts = ["a good film", "a boring film", "good music", "a boring book"]
    >>> teacher = make_pipeline(CountVectorizer(), TruncatedSVD(2)).fit(texts)
    >>> embedder = distill(teacher, texts, tokenizer="words")
    >>> embedder.transform(["a good book"]).shape
    (1, 2)
    """
    counts = {"n_words": n_words, "n_iter": n_iter, "n_epochs": n_epochs}
    _check_parameters(alpha, n_components, n_jobs, **counts, n_phrases=n_phrases)
    teachers = teacher if isinstance(teacher, list | tuple) else [teacher]
    if not teachers:
        raise ValueError("teacher must be a model, or a list of at least one")
    corpus = read_corpus(texts)
    models = [open_teacher(one) for one in teachers]
    n_threads = 1 if n_jobs is None else int(effective_n_jobs(n_jobs))
    if n_components is not None:  # known before the teachers embed all texts
        first = [teacher_vectors(model, corpus.texts[:1]).vectors for model in models]
        dim = max(vectors.shape[1] for vectors in first)
        check_count("n_components", n_components, 1, dim)
    subwords = tokenizer_of(models[0])
    vocabulary = make_vocabulary(tokenizer, subwords, corpus.texts, n_words)
    targets: Any
    alone: Any
    targets, alone = ask_teachers(
        *(models, corpus.texts, token_texts(vocabulary)),
        cache=None if cache is None else Path(cache),
        n_threads=n_threads,
        progress=progress,
    )
    if n_components is not None:
        axes = principal_axes([targets], n_components).T.astype(np.float32)
        targets, alone = _project(targets, axes), _project(alone, axes)
    tokens, n_tokens, vocabulary = tokenize(vocabulary, corpus.texts, n_phrases)
    weights = corpus.weights * targets.any(axis=1)
    prior = starting_table(tokens, n_tokens, targets, alone, len(vocabulary.tokens))
    stage = Stage(progress, "ridge regression", targets.shape[1])
    options: dict[str, Any] = {"n_iter": n_iter, "weights": weights}
    options |= {"n_tokens": n_tokens, "n_threads": n_threads, "progress": stage}
    penalties = np.full(len(prior), alpha, np.float32)
    penalties[vocabulary.n_words :] *= PHRASE_PENALTY
    table = fit_ridge(tokens, targets, prior, penalties=penalties, **options)
    stage = Stage(progress, "refinement", n_epochs * len(targets))
    options = {"weights": weights, "seed": seed, "progress": stage}
    table = refine(tokens, targets, table, n_epochs=n_epochs, **options)
    vectors = replace(vocabulary, matrix=table, normalize=True)
    params: dict[str, Any] = {"weights": None, "normalize": True, "n_jobs": n_jobs}
    return SentenceEmbedder(vectors, **params).fit()


class Stage:
    """Callable that adds up the finished steps of a stage for ``progress``.

    Parameters
    ----------
    progress : callable (str, int, int) or None
        Called with the name, the number of finished steps and their total.
    name : str
        Name of the stage.
    n_steps : int
        Total number of steps.
    """

    def __init__(self, progress: Progress | None, name: str, n_steps: int) -> None:
        self._progress, self._name, self._n_steps = progress, name, n_steps
        self._n_done, self._lock = 0, threading.Lock()

    def __call__(self, n: int) -> None:
        """Add finished steps."""
        if self._progress is not None:
            with self._lock:
                self._n_done += n
                self._progress(self._name, self._n_done, self._n_steps)


def read_corpus(texts: Any) -> Corpus:
    """Distinct texts and their counts, without empty ones.

    Raises
    ------
    ValueError
        If no text is left.
    """
    counts: dict[str, int] = {}
    for batch in as_batches(check_texts(texts)):
        for text in decode_utf8(batch):
            counts[text] = counts.get(text, 0) + 1
    distinct = [text for text in counts if text.strip()]
    if not distinct:
        raise ValueError("texts must have at least one text that is not empty")
    weights = np.array([counts[text] for text in distinct], np.float32)
    return Corpus(distinct, weights)


def ask_teachers(
    models: list[Any],
    texts: list[str],
    tokens: list[str],
    *,
    cache: Path | None,
    n_threads: int,
    progress: Progress | None,
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Combined vectors of texts, and of tokens that are texts of their own.

    Parameters
    ----------
    models : list of fitted text transformers
        Teachers.
    texts, tokens : list of str
        Texts, and the text of each token, which may be empty.
    cache : Path or None
        Directory of the vectors; None keeps them in memory.
    n_threads : int
        Number of threads.
    progress : callable (str, int, int) or None
        Receives the name of a stage, the number of finished texts and their total.

    Returns
    -------
    targets : ndarray of shape (n_texts, dim), float16
    alone : ndarray of shape (n_tokens, dim), float16
    """
    parts: list[list[NDArray[np.float16]]] = [[], []]
    if cache is not None:
        warn_of_other_vectors(cache / TEXTS, models, texts)
    for number, model in enumerate(models, 1):
        name = "teacher" if len(models) == 1 else f"teacher {number}"
        for part, items, kind in zip(parts, (texts, tokens), KINDS, strict=True):
            result = teacher_vectors(
                *(model, items),
                cache=None if cache is None else cache / kind,
                n_threads=n_threads,
                progress=Stage(progress, f"{name}: {kind}", len(items)),
            )
            part.append(result.vectors)
            if result.n_truncated:
                warnings.warn(
                    f"{result.n_truncated} of {len(items)} {kind} are longer than the "
                    f"{name} reads, which embeds their beginnings; split long texts",
                    stacklevel=3,
                )
    if len(models) == 1:
        return parts[0][0], parts[1][0]
    matrices = fit_alignment(parts[0])
    combined = []
    for part in parts:
        shape = (len(part[0]), matrices[0].shape[1])
        combined.append(align(part, matrices, np.empty(shape, np.float16)))
    return combined[0], combined[1]


def starting_table(
    tokens: RaggedRows,
    n_tokens: NDArray[np.int64],
    targets: NDArray[np.floating],
    alone: NDArray[np.floating],
    n_rows: int,
) -> Float32:
    """SIF-weighted vectors of tokens alone, toward which the regression shrinks.

    They are scaled, all by one factor, to fit the targets of some of the texts best.

    Parameters
    ----------
    tokens : RaggedRows
        Rows of the tokens and phrases of the texts.
    n_tokens : ndarray of shape (n_texts,), int64
        Number of tokens of each text.
    targets : ndarray of shape (n_texts, dim)
        Vectors of the texts.
    alone : ndarray of shape (n_tokens, dim)
        Vectors of the tokens.
    n_rows : int
        Number of rows of the table; those of phrases are zero.

    Returns
    -------
    ndarray of shape (n_rows, dim), float32
    """
    table = np.zeros((n_rows, alone.shape[1]), np.float32)
    sif = sif_weights(tokens, len(alone))[:, None]
    table[: len(alone)] = alone.astype(np.float32) * sif
    products = squares = 0.0
    for text in range(0, len(n_tokens), 1 + len(n_tokens) // N_SCALED):
        rows = tokens.rows[tokens.offsets[text] : tokens.offsets[text + 1]]
        total = table[rows].sum(axis=0, dtype=np.float64) / np.sqrt(
            max(n_tokens[text], 1)
        )
        products += float(total @ targets[text])
        squares += float(total @ total)
    table *= np.float32(products / squares if products > 0 else 1)
    return table


def _project(vectors: NDArray[np.float16], axes: Float32) -> Float32:
    """Coordinates of vectors on axes."""
    out = np.empty((len(vectors), axes.shape[1]), np.float32)
    for start, stop in chunks(len(vectors), BLOCK):
        out[start:stop] = vectors[start:stop].astype(np.float32) @ axes
    return out


def _check_parameters(
    alpha: float, n_components: int | None, n_jobs: int | None, **counts: int
) -> None:
    """Raise for wrong values before the teacher is loaded."""
    for name, count in counts.items():
        check_count(name, count, 1 if name == "n_words" else 0)
    if n_components is not None:
        check_count("n_components", n_components, 1)
    if not 0 <= alpha < np.inf:
        raise ValueError(f"alpha must be a finite number of at least 0, found {alpha}")
    check_n_jobs(n_jobs)
