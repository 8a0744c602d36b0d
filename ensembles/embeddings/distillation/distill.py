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
from ensembles.embeddings.distillation.alignment import (
    align,
    fit_alignment,
    principal_axes,
)
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
from ensembles.embeddings.postprocessing.projection import Moments, check_count
from ensembles.embeddings.tokenization.texts import as_batches, decode_utf8
from ensembles.embeddings.vectors.word_vectors import WordVectors
from ensembles.parallel import chunks

Progress = Callable[[str, int, int], None]
BLOCK = 4096  # texts whose vectors are computed at once
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
    alpha: float = 0.03,
    n_iter: int = 10,
    n_epochs: int = 0,
    n_components: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> SentenceEmbedder:
    """Distill sentence encoders into a table of token vectors, which are averaged.

    The teacher embeds the texts. Ridge regression then finds token vectors whose mean
    over a text approximates the teacher's vector of the text. Tokens that occur in no
    text keep the teacher's vector of the token alone, scaled by its SIF weight.

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
    alpha : float, default=0.03
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

    Returns
    -------
    SentenceEmbedder
        Fitted embedder with L2-normalized vectors. The directory that its ``save``
        writes is also read by model2vec and sentence-transformers.

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
    _check_parameters(n_words, alpha, n_iter, n_epochs, n_components, n_jobs)
    teachers = teacher if isinstance(teacher, list | tuple) else [teacher]
    if not teachers:
        raise ValueError("teacher must be a model, or a list of at least one")
    corpus = read_corpus(texts)
    models = [open_teacher(one) for one in teachers]
    n_threads = 1 if n_jobs is None else int(effective_n_jobs(n_jobs))
    subwords = tokenizer_of(models[0])
    vocabulary = make_vocabulary(tokenizer, subwords, corpus.texts, n_words)
    targets, alone = ask_teachers(
        *(models, corpus.texts, token_texts(vocabulary)),
        cache=None if cache is None else Path(cache),
        n_threads=n_threads,
        progress=progress,
    )
    if n_components is not None:
        check_count("n_components", n_components, 1, targets.shape[1])
    tokens = tokenize(vocabulary, corpus.texts)
    prior = alone.astype(np.float32) * sif_weights(tokens, len(alone))[:, None]
    weights = corpus.weights * targets.any(axis=1)
    stage = Stage(progress, "ridge regression", targets.shape[1])
    options: dict[str, Any] = {"alpha": alpha, "n_iter": n_iter, "weights": weights}
    options |= {"n_threads": n_threads, "progress": stage}
    table = fit_ridge(tokens, targets, prior, **options)
    stage = Stage(progress, "refinement", n_epochs * len(targets))
    options = {"weights": weights, "seed": seed, "progress": stage}
    table = refine(tokens, targets, table, n_epochs=n_epochs, **options)
    if n_components is not None:
        means = _embedder(vocabulary, table, False, n_jobs)
        table = table @ _leading_axes(means, corpus.texts, n_components)
    return _embedder(vocabulary, table, True, n_jobs)


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


def _embedder(
    vocabulary: WordVectors, table: Float32, normalize: bool, n_jobs: int | None
) -> SentenceEmbedder:
    """Embedder whose vectors are means of a table, L2-normalized or not."""
    vectors = replace(vocabulary, matrix=table, normalize=normalize)
    params: dict[str, Any] = {"weights": None, "normalize": normalize, "n_jobs": n_jobs}
    return SentenceEmbedder(vectors, **params).fit()


def _leading_axes(embedder: SentenceEmbedder, texts: list[str], n: int) -> Float32:
    """Principal axes of the vectors of texts, as columns."""
    moments = Moments(embedder.vectors_.matrix.shape[1])
    for start, stop in chunks(len(texts), BLOCK):
        moments.add(embedder.transform(texts[start:stop]))
    return principal_axes(moments, n).astype(np.float32)


def _check_parameters(
    n_words: int,
    alpha: float,
    n_iter: int,
    n_epochs: int,
    n_components: int | None,
    n_jobs: int | None,
) -> None:
    """Raise for wrong values before the teacher is loaded."""
    check_count("n_words", n_words, 1)
    check_count("n_iter", n_iter, 0)
    check_count("n_epochs", n_epochs, 0)
    if n_components is not None:
        check_count("n_components", n_components, 1)
    if not 0 <= alpha < np.inf:
        raise ValueError(f"alpha must be a finite number of at least 0, found {alpha}")
    check_n_jobs(n_jobs)
