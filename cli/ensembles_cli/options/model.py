"""Options of embedding models, and functions that open and describe a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ensembles_cli.options.types import Param, as_params

MIN_COVERAGE = 0.5  # token coverage below which a warning is printed
Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS = (
    click.option(
        "--rule",
        multiple=True,
        help=(
            "Pooling of the words: mean, maximum, minimum, power_mean or hierarchical; "
            "may be repeated to concatenate the results.  [default: mean]"
        ),
    ),
    click.option(
        "--weights",
        help=(
            "Word weights: sif, usif, idf, zipf or none.  [default: sif; none if the "
            "vectors contain word weights]"
        ),
    ),
    click.option(
        "--fit",
        type=click.Path(path_type=Path, exists=True),
        help="Training texts for word counts and principal components.",
    ),
    click.option(
        "--fit-column", metavar="NAME", help="Column of the texts if --fit is a table."
    ),
    click.option(
        "--frequencies",
        metavar="FILE",
        help=(
            "Source of word counts: a file with a word and its count per line, corpus "
            "(the --fit texts), vectors (counts in the file of the vectors), or zipf "
            "(the order of the vectors).  [default: the first available of corpus, "
            "vectors and zipf]"
        ),
    ),
    click.option(
        "--tokenizer",
        help=(
            "Tokenizer: whitespace, or a regular expression that matches words.  "
            "[default: the tokenizer of the model, else words of letters, marks and "
            "digits]"
        ),
    ),
    click.option(
        "--remove-components",
        type=click.IntRange(min=0),
        metavar="N",
        help="Remove the N leading principal components of the --fit texts.",
    ),
    click.option(
        "--whiten",
        is_flag=True,
        default=None,
        help="Whiten the vectors; the whitening is learned from the --fit texts.",
    ),
    click.option(
        "--n-components",
        type=click.IntRange(min=1),
        metavar="N",
        help=(
            "Number of dimensions of the vectors: N principal axes, or the first N "
            "columns of a transformer."
        ),
    ),
    click.option(
        "--normalize/--no-normalize", default=None, help="L2-normalize the vectors."
    ),
    click.option(
        "--lowercase/--no-lowercase",
        default=None,
        help="Lowercase the text.  [default: if the vocabulary is lowercase]",
    ),
    click.option(
        "--unknown",
        type=click.Choice(["skip", "subword", "error"]),
        help="How to handle out-of-vocabulary words.  [default: skip]",
    ),
    click.option(
        "--param",
        "--rule-param",
        "rule_params",
        type=Param(),
        multiple=True,
        help="Parameter of --rule, such as p=5; may be repeated.",
    ),
    click.option(
        "--weights-param",
        "weights_params",
        type=Param(),
        multiple=True,
        help="Parameter of --weights, such as a=1e-4; may be repeated.",
    ),
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        metavar="N",
        help="Read only the first N vectors.",
    ),
    click.option(
        "--errors",
        type=click.Choice(["strict", "replace", "ignore", "backslashreplace"]),
        help=(
            "How to handle words that are not UTF-8 in the file of vectors.  [default: "
            "backslashreplace if at most 1 % of the words are not UTF-8, else strict]"
        ),
    ),
    click.option(
        "--static",
        is_flag=True,
        default=None,
        help=(
            "Read only the input embedding table of a transformer, as SentenceEmbedder "
            "does, instead of running the transformer."
        ),
    ),
)


def model_options(command: Command) -> Command:
    """Add the options of `open_model_from_options` to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def model_option(command: Command, *, required: bool = True) -> Command:
    """Add ``--model`` to a command; the default is the variable ENSEMBLE_MODEL."""
    return click.option(
        "-m",
        "--model",
        type=click.Path(path_type=Path),
        required=required,
        envvar="ENSEMBLE_MODEL",
        help=(
            "Word vectors (GloVe, word2vec, fastText, npz, safetensors), or the "
            "directory of a model: model2vec, sentence-transformers, a saved "
            "SentenceEmbedder.  [default: the variable ENSEMBLE_MODEL]"
        ),
    )(command)


def open_model_from_options(
    model: Path,
    *,
    fit: Path | None = None,
    fit_column: str | None = None,
    frequencies: str | None = None,
    **options: Any,
) -> Any:
    """Open and fit a model with the options of a command.

    Parameters
    ----------
    model : Path
        File of word vectors or directory of a model.
    fit : Path or None, default=None
        File of texts to fit on; None fits without texts.
    fit_column : str or None, default=None
        Column of the texts in ``fit``; None is the default column of `read_texts`.
    frequencies : str or None, default=None
        Name of a source of word frequencies, or the path of a file with counts; None
        selects a source automatically.
    **options
        Values of the other options and ``dtype``; None and () mean the default.

    Returns
    -------
    SentenceEmbedder or SentenceEncoder
    """
    from ensembles.embeddings.auto_model import load_model
    from ensembles.embeddings.files.text_files import read_texts, to_list
    from ensembles.embeddings.weighting.frequencies import SOURCES

    texts = None
    if fit is not None:
        batches = read_texts(fit, column=fit_column)
        texts = [text for batch in batches for text in to_list(batch.texts)]
    if frequencies is not None and frequencies not in SOURCES:
        options["frequencies"] = Path(frequencies)
    elif frequencies is not None:
        options["frequencies"] = frequencies
    params = {
        name: value
        for name, value in options.items()
        if value is not None and value != ()
    }
    for name in ("rule_params", "weights_params"):
        if name in params:
            params[name] = as_params(params[name])
    if len(params.get("rule", ())) == 1:
        (params["rule"],) = params["rule"]
    if params.get("weights") == "none":
        params["weights"] = None
    with warnings.catch_warnings():
        # `describe` prints the same information.
        warnings.filterwarnings("ignore", message=".*has no word counts")
        try:
            return load_model(model, texts, n_jobs=-1, **params)
        except ValueError as error:
            if fit is None and "texts with known words" in str(error):
                message = f"{error}; --fit FILE names the training texts"
                raise ValueError(message) from None
            raise


def as_json_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a model as JSON values, except defaults."""
    values = {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in options.items()
        if value is not None and value != ()
    }
    if "frequencies" in values:
        from ensembles.embeddings.weighting.frequencies import SOURCES

        if values["frequencies"] not in SOURCES:
            values["frequencies"] = str(Path(values["frequencies"]).absolute())
    return values


def from_json_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `open_model_from_options` from `as_json_options`."""
    options = dict(values)
    if "fit" in options:
        options["fit"] = Path(options["fit"])
    return options


def open_transform(model: Path, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Open a model as a function from texts to vectors.

    A saved embedder is opened without scikit-learn, whose import takes longer than a
    search.

    Parameters
    ----------
    model : Path
        File of word vectors or directory of a model.
    options : mapping of str to value
        Arguments of `open_model_from_options`; None and () mean the default.

    Returns
    -------
    callable (list of str) -> vectors
    """
    from ensembles.embeddings.persistence.load import is_saved, load

    if not as_json_options(options) and is_saved(model):
        return load(model).transform
    transform: Callable[..., Any] = open_model_from_options(model, **options).transform
    return transform


def describe(model: Any, *, quiet: bool = False) -> dict[str, Any]:
    """Print the origin and the settings of a model, on one line.

    Parameters
    ----------
    model : SentenceEmbedder or SentenceEncoder
        Fitted model.
    quiet : bool, default=False
        Whether to print nothing.

    Returns
    -------
    dict of str to JSON value
        The same facts.
    """
    from ensembles.embeddings.encoder import SentenceEncoder
    from ensembles.embeddings.summary import sentence, summary
    from ensembles.embeddings.weighting.builtin import BY_ORDER

    facts = summary(model)
    if not quiet:
        message = sentence(facts)
        if facts.get("frequencies") == BY_ORDER:
            message += " (--fit or --frequencies provides counts)"
        if isinstance(model, SentenceEncoder):
            message += "; --static uses its input embeddings instead"
        note(message)
    return facts


def note(message: str) -> None:
    """Print a note to stderr."""
    click.echo(click.style(f"note: {message}", fg="yellow"), err=True)


def describe_coverage(counts: Any, *, quiet: bool = False) -> dict[str, Any]:
    """Print the token coverage of texts, and warn if it is low.

    Parameters
    ----------
    counts : Coverage
        Counts of texts and tokens.
    quiet : bool, default=False
        Whether to print nothing.

    Returns
    -------
    dict of str to JSON value
        The same facts.
    """
    share = counts.share
    facts = {
        "texts": counts.n_texts,
        "coverage": share,
        "texts_without_known_tokens": counts.n_empty,
        "truncated_texts": counts.n_truncated,
    }
    if quiet:
        return facts
    covered = (
        "" if share is None else f"{_percent(share)} of the tokens have a vector; "
    )
    empty = f"{counts.n_empty} of {counts.n_texts} texts have no known token"
    zeros = ", so their vectors are zero" if counts.n_empty else ""
    note(f"{covered}{empty}{zeros}")
    if counts.n_truncated:
        note(
            f"{counts.n_truncated} of {counts.n_texts} texts were truncated to the "
            "maximum length of the model"
        )
    if share is not None and share < MIN_COVERAGE:
        warnings.warn(
            "fewer than half of the tokens have a vector: check that the vectors are "
            "of this language, and that --tokenizer and --lowercase match them",
            stacklevel=2,
        )
    return facts


def _percent(share: float) -> str:
    """Format a share in percent; only 1 is shown as 100 and only 0 as 0."""
    text = f"{100 * share:.1f}"
    text = {"100.0": "100" if share == 1 else "99.9"}.get(text, text)
    return f"{'0' if share == 0 else text} %"
