"""Sentence vectors from transformers, with the interface of `SentenceEmbedder`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ensembles._sklearn import check_bool
from ensembles.embeddings.base import TextTransformer, check_texts
from ensembles.embeddings.postprocessing.projection import check_count
from ensembles.embeddings.postprocessing.quantization import (
    FLOATS,
    check_dtype,
    l2_normalize,
    quantize,
)
from ensembles.embeddings.remote_code import check_no_remote_code
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.tokenization.texts import as_batches, decode_utf8

INSTALL = "pip install 'ensemble-avg[sentence]'"
# Upper bound on the special tokens that a tokenizer adds to a text.
MAX_SPECIAL_TOKENS = 8
MIN_TORCH = (2, 6)  # first version whose torch.load defaults to weights_only=True


class SentenceEncoder(TextTransformer):
    """Text transformer that encodes texts with a sentence-transformers model.

    Empty texts, None and NaN get a zero vector, as in `SentenceEmbedder`. Texts longer
    than the model's ``max_seq_length`` are truncated, with a warning. Padding within a
    batch changes a vector only by rounding.

    Parameters
    ----------
    model : path, str or SentenceTransformer
        Path or Hub name, passed to `sentence_transformers.SentenceTransformer`, or a
        loaded model. Code in a model directory is never run: a directory whose
        configuration names classes of its own is refused.
    prompt : str or None, default=None
        Text prepended to each text. None uses the model's default prompt, if it has
        one.
    n_components : int or None, default=None
        Number of leading dimensions to keep, for models trained for truncation
        (Matryoshka). None keeps all.
    normalize : bool, default=False
        Whether to L2-normalize the vectors.
    batch_size : int, default=32
        Number of texts that the model encodes at once.
    device : str or None, default=None
        PyTorch device such as ``"cpu"`` or ``"cuda"``; a loaded model stays on its
        own. None lets sentence-transformers choose.
    dtype : {"float32", "float16", "float64"}, default="float32"
        Data type of the vectors that `transform` returns.

    Attributes
    ----------
    model_ : SentenceTransformer
        The loaded model.
    prompt_ : str
        Text prepended to each text: ``prompt``, or the model's default prompt; empty if
        there is none.

    See Also
    --------
    SentenceEmbedder : Averages of word vectors, which need no neural network.
    load_model : Open a saved embedder, a transformer or word vectors by its path.

    Notes
    -----
    The model is pretrained: `fit` loads it and learns nothing from ``X``. It needs the
    package sentence-transformers.

    Examples
    --------
    >>> encoder = SentenceEncoder("all-MiniLM-L6-v2/", normalize=True)
    >>> encoder.fit_transform(["A cat sat.", ""]).shape  # doctest: +SKIP
    (2, 384)
    """

    def __init__(
        self,
        model: Any,
        *,
        prompt: str | None = None,
        n_components: int | None = None,
        normalize: bool = False,
        batch_size: int = 32,
        device: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        self.model = model
        self.prompt = prompt
        self.n_components = n_components
        self.normalize = normalize
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def fit(self, X: Any = None, y: Any = None) -> SentenceEncoder:
        """Load the model.

        Parameters
        ----------
        X : iterable or column of str, or None, default=None
            Not used; if given, only checked to be one column of texts.
        y : None
            Not used.

        Returns
        -------
        self
            The fitted encoder.
        """
        if check_dtype(self.dtype) not in FLOATS:
            raise ValueError(
                f"dtype must be one of {', '.join(FLOATS)}, found {self.dtype!r}"
            )
        self._check_parameters()
        if X is not None:
            check_texts(X)
        model = self._load_model()
        # sentence-transformers 6 renamed the method.
        get_dim = getattr(model, "get_embedding_dimension", None)
        dim = get_dim() if get_dim else model.get_sentence_embedding_dimension()
        if not isinstance(dim, int):
            raise ValueError(
                f"{self.model} must state its embedding dimension, found {dim!r}"
            )
        if self.n_components is not None:
            check_count("n_components", self.n_components, 1, dim)
        prompts = getattr(model, "prompts", None) or {}
        default = prompts.get(getattr(model, "default_prompt_name", None))
        self.model_ = model
        self.prompt_ = (default or "") if self.prompt is None else self.prompt
        self._n_features_out = int(self.n_components or dim)
        return self

    def _check_parameters(self) -> None:
        """Raise for wrong values before the model is loaded."""
        if not (
            isinstance(self.model, str | os.PathLike) or hasattr(self.model, "encode")
        ):
            raise TypeError(
                "model must be a path, a name or a SentenceTransformer, found "
                f"{self.model!r:.80}"
            )
        for name in ("prompt", "device"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise TypeError(f"{name} must be a str or None, found {value!r}")
        if self.n_components is not None:
            check_count("n_components", self.n_components, 1)
        check_bool("normalize", self.normalize)
        check_count("batch_size", self.batch_size, 1)

    def transform(self, X: Any) -> Any:
        """Encode texts as vectors.

        Parameters
        ----------
        X : iterable or column of str
            Texts. None, NaN and other missing values count as empty texts.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out), of ``dtype``
            One vector per text.

        Raises
        ------
        ValueError
            If the model returns NaN or infinity for a text.

        Warns
        -----
        UserWarning
            If a text is longer than the model's ``max_seq_length`` tokens.
        """
        check_is_fitted(self)
        vectors, n_truncated = self._encode(X)
        if n_truncated:
            warnings.warn(
                f"{n_truncated} of {len(vectors)} texts were truncated to the "
                f"{self.model_.max_seq_length} tokens that the model reads; split long "
                "texts, and average the vectors of the parts",
                stacklevel=2,
            )
        return vectors

    def _encode(self, X: Any) -> tuple[Any, int]:
        """Return the vectors of texts and the number of truncated texts."""
        batches = as_batches(check_texts(X))
        texts = [text for batch in batches for text in decode_utf8(batch)]
        vectors = np.zeros((len(texts), self._n_features_out), np.float32)
        rows = [row for row, text in enumerate(texts) if text.strip()]
        n_truncated = 0
        if rows:
            filled = [texts[row] for row in rows]
            n_truncated = self._count_truncated(filled)
            encoded = self.model_.encode(
                filled,
                prompt=self.prompt,
                batch_size=self.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            vectors[rows] = encoded[:, : self._n_features_out]
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise ValueError(
                f"vectors of {self.model} must be finite, found NaN or infinity for "
                f"{len(broken)} of {len(texts)} texts, such as "
                f"{texts[broken[0]][:60]!r}; a model in float16 may overflow: load it "
                "in float32 and pass it as model"
            )
        vectors = l2_normalize(vectors) if self.normalize else vectors
        return quantize(vectors, check_dtype(self.dtype), 1.0), n_truncated

    def _count_truncated(self, texts: list[str]) -> int:
        """Number of texts longer than the model's ``max_seq_length`` tokens."""
        max_tokens = getattr(self.model_, "max_seq_length", None)
        tokenizer: Any = getattr(self.model_, "tokenizer", None)
        if not isinstance(max_tokens, int) or not hasattr(
            tokenizer, "model_max_length"
        ):
            return 0
        texts = [self.prompt_ + text for text in texts]
        # Every token but the special ones at the ends of a text has at least one byte.
        shortest = max_tokens - MAX_SPECIAL_TOKENS
        long_texts = [text for text in texts if len(text.encode()) > shortest]
        if not long_texts:
            return 0
        ids = tokenizer(long_texts, truncation=False, verbose=False)["input_ids"]
        return sum(len(text_ids) > max_tokens for text_ids in ids)

    def transform_counted(self, X: Any, coverage: Coverage) -> Any:
        """Encode texts as `transform` does, and count empty and truncated texts.

        Parameters
        ----------
        X : sequence or column of str
            Texts. None, NaN and other missing values count as empty texts.
        coverage : Coverage
            Counter to which the numbers of texts, of zero vectors and of truncated
            texts are added.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out), of ``dtype``
            One vector per text.
        """
        vectors, n_truncated = self._encode(X)
        n_empty = len(vectors) - int(np.count_nonzero(vectors.any(axis=1)))
        coverage.add_texts(len(vectors), n_empty, n_truncated)
        return vectors

    def _load_model(self) -> Any:
        if not isinstance(self.model, str | os.PathLike):
            return self.model
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ImportError(
                f"SentenceEncoder needs the package sentence-transformers: {INSTALL}"
            ) from None
        return _load(str(self.model), SentenceTransformer, self.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable transformers' progress bar, which would appear in a caller's output."""
    from transformers.utils import logging as logging_module

    logging: Any = logging_module
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _load(path: str, model_class: Any, device: str | None) -> Any:
    """Load a model from a directory, or by its name on the Hugging Face Hub."""
    import torch

    if Path(path).is_dir():
        check_no_remote_code(Path(path))
        old = tuple(map(int, torch.__version__.split(".")[:2])) < MIN_TORCH
        pickled = [*Path(path).rglob("*.bin"), *Path(path).rglob("*.pt")]
        if old and pickled:
            raise ValueError(
                f"{pickled[0]} is a pickle, and PyTorch {torch.__version__} would run "
                "its code; install PyTorch 2.6 or newer, which reads only tensors"
            )
    try:
        with _quiet():
            return model_class(path, device=device, trust_remote_code=False)
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be loaded by sentence-transformers: "
            f"{type(error).__name__}: {error}"
        ) from error
