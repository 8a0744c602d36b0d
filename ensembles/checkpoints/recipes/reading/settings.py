"""Parameters of a recipe, read for a merge method."""

from __future__ import annotations

from typing import Any

from ensembles.checkpoints.recipes.document import Setting, Settings
from ensembles.checkpoints.recipes.method import Method
from ensembles.checkpoints.recipes.methods import METHODS
from ensembles.checkpoints.recipes.parameters import Parameter
from ensembles.checkpoints.recipes.reading.entries import Entry, Findings
from ensembles.checkpoints.recipes.reading.fields import Fields, shown, suggestion

# Parameters that mergekit reads, or that its earlier versions read, and their effect.
WITHOUT_EFFECT = {
    "int8_mask": "int8_mask has no effect: masks are not stored",
    "random_seed": "random_seed has no effect, as in mergekit; the masks of DARE and "
    "DELLA follow from seed under parameters",
    "embed_slerp": "embed_slerp has no effect, as in mergekit 0.1: embeddings are "
    "merged like other tensors",
}
PARAMETERS = {
    parameter.name: parameter
    for method in METHODS.values()
    for parameter in method.parameters
}


def read_settings(
    fields: Fields, method: Method | None, name: str, *, of_model: bool
) -> Settings:
    """Parameters of a model, a slice, a module or the merge.

    Parameters
    ----------
    fields : Fields
        Mapping with an entry ``parameters``.
    method : Method or None
        Merge method; None if it is unknown, which leaves its parameters unchecked.
    name : str
        Name of the method.
    of_model : bool
        Whether these are parameters of a model.

    Returns
    -------
    dict of str to Setting
        Parameters that have an effect.
    """
    settings: dict[str, Setting] = {}
    if method is None:
        return settings
    known = {parameter.name: parameter for parameter in method.parameters}
    for key, entry in fields.mapping("parameters").items():
        parameter = known.get(key)
        if parameter is None:
            _add_unknown(key, entry, name, known, fields.findings)
        elif of_model and not parameter.of_model:
            fields.findings.note(
                entry.line,
                f"{key} of a model has no effect, as in mergekit: {name} takes it from "
                "the parameters of the merge or a slice",
            )
        else:
            settings[key] = _setting(entry, parameter, fields.findings)
    return settings


def _add_unknown(
    key: str,
    entry: Entry,
    method: str,
    known: dict[str, Parameter],
    findings: Findings,
) -> None:
    if key in WITHOUT_EFFECT:
        findings.note(entry.line, WITHOUT_EFFECT[key])
    elif key in PARAMETERS:
        findings.note(
            entry.line, f"{key} has no effect with {method}, which does not have it"
        )
    else:
        hint = suggestion(key, known) or suggestion(key, PARAMETERS)
        listed = f" (known: {', '.join(known) or 'none'})"
        findings.problem(
            entry.line, f"{method} has no parameter {key!r:.60}{hint or listed}"
        )


def _setting(entry: Entry, parameter: Parameter, findings: Findings) -> Setting:
    """A value, a gradient, or values with filters."""
    if isinstance(entry.value, dict):
        return _condition(entry, parameter, findings)
    if not isinstance(entry.value, list):
        return _scalar(entry, parameter, findings)
    if not entry.value:
        findings.problem(
            entry.line, f"{parameter.name} must have at least one value, found []"
        )
    kinds = {isinstance(item.value, dict) for item in entry.value}
    if kinds == {True, False}:
        findings.problem(
            entry.line,
            f"{parameter.name} must be a list of values (a gradient over the layers), "
            "or of mappings with value and filter, found both in one list",
        )
        return None
    if kinds == {True}:
        return [_condition(item, parameter, findings) for item in entry.value]
    return [_scalar(item, parameter, findings) for item in entry.value]


def _condition(entry: Entry, parameter: Parameter, findings: Findings) -> Setting:
    fields = Fields(entry, parameter.name, ("value", "filter"), findings)
    if "value" not in fields:
        findings.problem(entry.line, f"{parameter.name} must have a value")
        return {"value": None}
    value = fields.entries["value"]
    holds_mappings = isinstance(value.value, list) and any(
        isinstance(item.value, dict) for item in value.value
    )
    if isinstance(value.value, dict) or holds_mappings:
        findings.problem(
            value.line,
            f"value of {parameter.name} must be a {parameter.kind} or a list of them, "
            "found a mapping; filters cannot be nested",
        )
        return {"value": None}
    condition = {"value": _setting(value, parameter, findings)}
    if "filter" in fields:
        condition["filter"] = fields.text("filter")
    return condition


def _scalar(entry: Entry, parameter: Parameter, findings: Findings) -> Any:
    try:
        if entry.value is None or isinstance(entry.value, list | dict):
            raise ValueError(
                f"{parameter.name} must be a {parameter.kind}, found "
                f"{shown(entry.value)}"
            )
        return parameter.convert(entry.value)
    except ValueError as error:
        findings.problem(entry.line, str(error))
        return None
