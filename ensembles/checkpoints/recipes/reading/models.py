"""Models and tokenizers of a recipe."""

from __future__ import annotations

from ensembles.checkpoints.recipes.document import TokenEmbedding, Tokenizer
from ensembles.checkpoints.recipes.reading.entries import Entry, Findings
from ensembles.checkpoints.recipes.reading.fields import Fields, shown

REFERENCE = ("model", "lora", "override_architecture")


def read_model(fields: Fields, name: str, *, required: bool = True) -> str:
    """Path of a model.

    Parameters
    ----------
    fields : Fields
        Mapping with the entry.
    name : str
        Name of the entry.
    required : bool, default=True
        Whether a missing entry is a problem.

    Returns
    -------
    str
        As ``path``, ``path@revision`` or ``path+adapter``; empty if there is none, or
        it is not valid, which adds a problem.
    """
    if name in fields:
        return _reference(fields.entries[name], f"{name} of {fields.noun}", fields)
    if required:
        fields.findings.problem(fields.line, f"{fields.noun} must have {name}")
    return ""


def _reference(entry: Entry, noun: str, fields: Fields) -> str:
    """Path of a model from a text, or mergekit's mapping of its parts."""
    findings = fields.findings
    if isinstance(entry.value, dict):
        parts = Fields(entry, noun, REFERENCE, findings)
        if "override_architecture" in parts:
            findings.note(
                parts.line_of("override_architecture"),
                "override_architecture has no effect: tensor names decide",
            )
        model, adapter = _path(parts, "model"), _path(parts, "lora")
        return f"{model}+{adapter}" if adapter else model
    if not isinstance(entry.value, str) or not entry.value.strip():
        hint = "; put it in quotes" if isinstance(entry.value, int | float) else ""
        findings.problem(
            entry.line, f"{noun} must be a path, found {shown(entry.value)}{hint}"
        )
        return ""
    return checked_path(entry.value.strip(), entry.line, noun, findings)


def checked_path(path: str, line: int, noun: str, findings: Findings) -> str:
    """Path of a model, whose form is checked.

    Parameters
    ----------
    path : str
        The path.
    line : int
        Its line.
    noun : str
        What it is the path of, for messages.
    findings : Findings
        Problems, to which others are added.

    Returns
    -------
    str
        Empty if it is not valid.
    """
    parts = path.split("+")
    if len(parts) > 2 or not all(parts):
        findings.problem(
            line,
            f"{noun} must be a path, or PATH+ADAPTER with one adapter, found "
            f"{path!r:.80}; merge several adapters first, and pass the result",
        )
        return ""
    return path


def _path(fields: Fields, name: str) -> str:
    """Path as a text, or a mapping of path and revision."""
    if name not in fields:
        return ""
    entry = fields.entries[name]
    if not isinstance(entry.value, dict):
        return fields.text(name) or ""
    parts = Fields(entry, f"{name} of a model", ("path", "revision"), fields.findings)
    path, revision = parts.text("path") or "", parts.text("revision")
    return f"{path}@{revision}" if revision else path


def read_tokenizer(fields: Fields) -> Tokenizer | None:
    """Tokenizer of the result, from ``tokenizer_source`` or ``tokenizer``.

    Parameters
    ----------
    fields : Fields
        Entries of the recipe.

    Returns
    -------
    Tokenizer or None
        None if there is neither.
    """
    if "tokenizer_source" in fields and "tokenizer" in fields:
        fields.findings.problem(
            fields.line_of("tokenizer"),
            "a recipe must have tokenizer_source or tokenizer, found both; move "
            "tokenizer_source into tokenizer as source",
        )
    if "tokenizer" in fields:
        return _tokenizer(fields.entries["tokenizer"], fields.findings)
    if "tokenizer_source" not in fields:
        return None
    source = _source(read_model(fields, "tokenizer_source"))
    return Tokenizer(source=source, line=fields.line_of("tokenizer_source"))


def _source(source: str) -> str:
    """Source of a tokenizer; early versions of mergekit wrote ``model:PATH``."""
    return source.removeprefix("model:")


def _tokenizer(entry: Entry, findings: Findings) -> Tokenizer:
    names = ("source", "tokens", "pad_to_multiple_of")
    fields = Fields(entry, "tokenizer", names, findings)
    source = _source(read_model(fields, "source", required=False))
    tokens = {
        token: _token(token, value, findings)
        for token, value in fields.mapping("tokens").items()
    }
    padding = fields.whole("pad_to_multiple_of")
    return Tokenizer(source or "union", tokens, padding, fields.line)


def _token(token: str, entry: Entry, findings: Findings) -> TokenEmbedding:
    fields = Fields(entry, f"token {token!r:.40}", ("source", "force"), findings)
    force, line = fields.flag("force"), fields.line
    if "source" not in fields:
        return TokenEmbedding(force=force, line=line)
    source = fields.entries["source"]
    if not (isinstance(source.value, dict) and "kind" in source.value):
        model = read_model(fields, "source")
        return TokenEmbedding(model=model, force=force, line=line)
    kind = _kind_of(source, findings)
    if kind is None or kind.text("kind") == "zero":
        return TokenEmbedding(is_zero=True, force=force, line=line)
    if ("token" in kind) == ("token_id" in kind):
        findings.problem(
            kind.line, f"source of {fields.noun} must have either token or token_id"
        )
    return TokenEmbedding(
        model=read_model(kind, "model"),
        token=kind.text("token"),
        token_id=kind.whole("token_id", least=0),
        force=force,
        line=line,
    )


def _kind_of(entry: Entry, findings: Findings) -> Fields | None:
    """Entries of a source with a kind; None for an unknown kind."""
    names = ("kind", "model", "token", "token_id")
    fields = Fields(entry, "source of a token", names, findings)
    return fields if fields.choice("kind", ("zero", "model_token")) else None
