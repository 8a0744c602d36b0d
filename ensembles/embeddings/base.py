"""Base class of the text transformers, and validation of their input texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)


class TextTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base class of transformers that map texts to vectors."""

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Fit to texts, then return their vectors.

        Parameters
        ----------
        X : iterable or column of str
            Texts. An iterator is read into a list first, as it can be consumed only
            once.
        y : None
            Not used.
        **fit_params
            Passed to `fit`.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out)
            One vector per text.
        """
        texts = list(X) if isinstance(X, Iterator) else X
        return super().fit_transform(texts, y, **fit_params)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.input_tags.allow_nan = True
        tags.requires_fit = True
        return tags


def check_texts(texts: Any) -> Any:
    """Check that texts form one axis, and extract the column of a one-column frame.

    Parameters
    ----------
    texts : object
        Texts as passed to `fit` or `transform`; the texts themselves are not checked.

    Returns
    -------
    object
        ``texts`` unchanged, or the only column of a data frame or of an array of shape
        (n_texts, 1).

    Raises
    ------
    ValueError
        If ``texts`` is a single str or bytes, or has more than one column.
    TypeError
        If ``texts`` is not iterable.
    """
    if isinstance(texts, list):
        return texts
    if isinstance(texts, str | bytes):
        raise ValueError(
            f"texts must be a sequence of str, found a single {type(texts).__name__}; "
            "pass [text]"
        )
    shape: Any = getattr(texts, "shape", (0,))
    if len(shape) == 2 and shape[1] == 1:
        return _only_column(texts)
    if len(shape) != 1:
        raise ValueError(
            f"texts must be one column, found shape {shape}; select it with X['text'] "
            "or X[:, 0]"
        )
    if not hasattr(texts, "__iter__") and not hasattr(texts, "__arrow_c_stream__"):
        raise TypeError(f"texts must be a sequence of str, found {texts!r}")
    return texts


def _only_column(texts: Any) -> Any:
    if hasattr(texts, "column"):  # pyarrow
        return texts.column(0)
    if hasattr(texts, "columns"):
        return texts[texts.columns[0]]
    return texts[:, 0]
