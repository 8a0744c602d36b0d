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

from ensembles.embeddings.base import TextTransformer, check_texts
from ensembles.embeddings.postprocessing.quantization import (
    FLOATS,
    cast,
    check_dtype,
    normalized,
)
from ensembles.embeddings.remote_code import check_no_remote_code
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.tokenization.texts import decoded, parts_of

INSTALL = "pip install 'ensemble-avg[sentence]'"
AROUND = 8  # upper bound on the special tokens that a tokenizer adds to a text
TORCH = (2, 6)  # first version whose torch.load defaults to weights_only=True


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
        if X is not None:
            check_texts(X)
        self.model_ = self._loaded()
        # sentence-transformers 6 renamed the method.
        ask = getattr(self.model_, "get_embedding_dimension", None)
        dim = ask() if ask else self.model_.get_sentence_embedding_dimension()
        if not isinstance(dim, int):
            raise ValueError(
                f"{self.model} must have a number of dimensions, found {dim!r}"
            )
        if self.n_components is not None and not 1 <= self.n_components <= dim:
            raise ValueError(
                f"n_components must be from 1 to {dim}, the model's dimensions; found "
                f"{self.n_components!r}"
            )
        self._n_features_out = int(self.n_components or dim)
        return self

    @property
    def used_prompt(self) -> str:
        """Text prepended to each text: ``prompt``, or the model's default prompt."""
        if self.prompt is not None:
            return self.prompt
        prompts = getattr(self.model_, "prompts", None) or {}
        return prompts.get(getattr(self.model_, "default_prompt_name", None)) or ""

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
        vectors, n_cut = self._encoded(X)
        if n_cut:
            warnings.warn(
                f"{n_cut} of {len(vectors)} texts have more than the "
                f"{self.model_.max_seq_length} tokens that the model reads: the rest "
                "of them is cut off; split long texts, and average the vectors",
                stacklevel=2,
            )
        return vectors

    def _encoded(self, X: Any) -> tuple[Any, int]:
        """Returns the vectors of texts and the number of truncated texts."""
        texts = [text for part in parts_of(check_texts(X)) for text in decoded(part)]
        out = np.zeros((len(texts), self._n_features_out), np.float32)
        filled = [index for index, text in enumerate(texts) if text.strip()]
        n_cut = 0
        if filled:
            some = [texts[index] for index in filled]
            n_cut = self._count_cut(some)
            found = self.model_.encode(
                some,
                prompt=self.prompt,
                batch_size=self.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            out[filled] = found[:, : self._n_features_out]
        broken = np.flatnonzero(~np.isfinite(out).all(axis=1))
        if len(broken):
            raise ValueError(
                f"{self.model} must give finite vectors, but gives NaN or infinity for "
                f"{len(broken)} of {len(texts)} texts, such as "
                f"{texts[broken[0]][:60]!r}; a model in float16 may overflow: load it "
                "in float32 and pass it"
            )
        out = normalized(out) if self.normalize else out
        return cast(out, check_dtype(self.dtype), 1.0), n_cut

    def _count_cut(self, texts: list[str]) -> int:
        """Number of texts longer than the model's ``max_seq_length`` tokens."""
        most = getattr(self.model_, "max_seq_length", None)
        tokenizer: Any = getattr(self.model_, "tokenizer", None)
        if not isinstance(most, int) or not hasattr(tokenizer, "model_max_length"):
            return 0
        texts = [self.used_prompt + text for text in texts]
        # Every token but the special ones at the ends of a text has at least one byte.
        long = [text for text in texts if len(text.encode()) > most - AROUND]
        if not long:
            return 0
        ids = tokenizer(long, truncation=False, verbose=False)["input_ids"]
        return sum(len(one) > most for one in ids)

    def counted(self, X: Any, coverage: Coverage) -> Any:
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
        found, n_cut = self._encoded(X)
        n_empty = len(found) - int(np.count_nonzero(found.any(axis=1)))
        coverage.add_texts(len(found), n_empty, n_cut)
        return found

    def _loaded(self) -> Any:
        if not isinstance(self.model, str | os.PathLike):
            return self.model
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ImportError(
                f"SentenceEncoder needs the package sentence-transformers: {INSTALL}"
            ) from None
        return _loaded(str(self.model), SentenceTransformer, self.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Disables transformers' progress bar, which would appear in a caller's output."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _loaded(path: str, kind: Any, device: str | None) -> Any:
    """Loads a model from a directory, or by its name on the Hugging Face Hub."""
    import torch

    if Path(path).is_dir():
        check_no_remote_code(Path(path))
        old = tuple(map(int, torch.__version__.split(".")[:2])) < TORCH
        pickled = [*Path(path).rglob("*.bin"), *Path(path).rglob("*.pt")]
        if old and pickled:
            raise ValueError(
                f"{pickled[0]} is a pickle, which torch {torch.__version__} would run; "
                "torch 2.6 and newer reads the tensors alone"
            )
    try:
        with _quiet():
            return kind(path, device=device, trust_remote_code=False)
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be loaded by sentence-transformers: "
            f"{type(error).__name__}: {error}"
        ) from error
