"""Read recipes from YAML files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ensembles.checkpoints.planning.foreign_rules import rule_hint
from ensembles.checkpoints.planning.opening import all_problems
from ensembles.checkpoints.planning.options import SHORT_NAMES
from ensembles.checkpoints.recipes.document import (
    Mixture,
    Module,
    Recipe,
    Settings,
    Slice,
    Source,
)
from ensembles.checkpoints.recipes.method import Method
from ensembles.checkpoints.recipes.methods import METHODS, method_of
from ensembles.checkpoints.recipes.parameters import REQUIRED
from ensembles.checkpoints.recipes.reading.entries import (
    Entry,
    Findings,
    read_documents,
)
from ensembles.checkpoints.recipes.reading.fields import (
    Fields,
    suggestion,
    whole_number,
)
from ensembles.checkpoints.recipes.reading.mixtures import read_mixture
from ensembles.checkpoints.recipes.reading.models import read_model, read_tokenizer
from ensembles.checkpoints.recipes.reading.settings import (
    PARAMETERS,
    WITHOUT_EFFECT,
    read_settings,
)
from ensembles.checkpoints.vocabulary.chat_templates import template_problem
from ensembles.dtypes import FLOATS

INPUTS = ("models", "slices", "modules")
NAMES = (
    *INPUTS,
    "merge_method",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
)
OPTIONS = (
    "allow_crimes async_write clone_tensors copy_tokenizer cuda device gpu_rich "
    "lazy_unpickle lora_merge_cache lora_merge_dtype low_cpu_memory multi_gpu "
    "num_threads out_shard_size quiet random_seed read_to_gpu safe_serialization "
    "transformers_cache trust_remote_code unsafe_truncate_embeddings verbosity "
    "write_model_card write_threads"
)
MISPLACED = {
    name: f"{name} has no effect here, as in mergekit, which reads it under parameters"
    for name in PARAMETERS
} | WITHOUT_EFFECT
IGNORED = {
    name: f"{name} has no effect in a recipe: it is an option of mergekit's command"
    for name in OPTIONS.split()
} | MISPLACED
OF_MODEL = MISPLACED | {
    "layer_range": "layer_range has no effect under models, as in mergekit; write "
    "slices with sources"
}


def read_recipes(path: str | os.PathLike[str]) -> tuple[Recipe | Mixture, ...]:
    """Read the merges of a YAML file in the format of mergekit.

    Parameters
    ----------
    path : path
        File with one or more documents: of mergekit-yaml, mergekit-multimerge or
        mergekit-moe.

    Returns
    -------
    tuple of Recipe and Mixture
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not a valid recipe; the message lists all problems with their
        lines, 20 at most.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no recipe at {path}")
    findings = Findings(Path(path))
    documents = read_documents(findings)
    if not documents and not findings.problems:
        findings.problem(1, "the file is empty; a recipe has merge_method and models")
    recipes = [
        recipe
        for entry in documents
        if (recipe := _document(entry, findings)) is not None
    ]
    _check_names(recipes, findings)
    if findings.problems:
        raise ValueError(all_problems(findings.messages()))
    return tuple(recipes)


def _document(entry: Entry, findings: Findings) -> Recipe | Mixture | None:
    if entry.value is None:
        findings.problem(
            entry.line, "a document must not be empty; remove it, with its ---"
        )
        return None
    if isinstance(entry.value, dict) and "experts" in entry.value:
        return read_mixture(entry, findings)
    return _RecipeReader(entry, findings).recipe()


def _check_names(recipes: Sequence[Recipe | Mixture], findings: Findings) -> None:
    lines: dict[str | None, int] = {}
    for recipe in recipes:
        if recipe.name in lines:
            message = f"another merge has the name {recipe.name!r}, in line "
            if recipe.name is None:
                message = "one merge at most may be without a name, the last; name the "
                message += "others (name: ...), such as the one in line "
            findings.problem(recipe.line, f"{message}{lines[recipe.name]}")
        lines[recipe.name] = recipe.line


class _RecipeReader:
    """Reads one document, whose merge method determines the parameters."""

    def __init__(self, entry: Entry, findings: Findings) -> None:
        self.findings = findings
        self.fields = Fields(entry, "a recipe", NAMES, findings, IGNORED)
        self.name = self.fields.text("merge_method") or ""
        self.method = self._method()
        self.base = read_model(self.fields, "base_model", required=False) or None

    def recipe(self) -> Recipe:
        """The recipe; what is not valid is left out."""
        fields = self.fields
        set_inputs = [name for name in INPUTS if name in fields]
        if len(set_inputs) != 1 and fields.is_mapping:
            found = " and ".join(set_inputs) or "none"
            self.findings.problem(
                fields.line_of(set_inputs[1]) if set_inputs else fields.line,
                f"a recipe must have one of models, slices and modules, found {found}",
            )
        parameters = self._settings(fields)
        models, slices = self._inputs(fields, (parameters,))
        modules = {
            name: self._module(name, entry, parameters)
            for name, entry in fields.mapping("modules").items()
        }
        return Recipe(
            method=self.name,
            models=models,
            slices=slices,
            modules=modules,
            base_model=self.base,
            parameters=parameters,
            dtype=self._dtype("dtype"),
            out_dtype=self._dtype("out_dtype"),
            tokenizer=read_tokenizer(fields),
            chat_template=self._chat_template(),
            name=fields.text("name"),
            notes=self.findings.take_notes(),
            path=self.findings.path,
            line=fields.line,
        )

    def _method(self) -> Method | None:
        if not self.fields.is_mapping:
            return None
        method = method_of(self.name)
        if method is None and self.name:
            hint = suggestion(self.name, METHODS) or rule_hint(self.name)
            self.findings.problem(
                self.fields.line_of("merge_method"),
                f"merge_method {self.name!r:.60} is unknown{hint} (known: "
                f"{', '.join(sorted(METHODS))}, and the names of rules)",
            )
        elif method is None and "merge_method" not in self.fields:
            self.findings.problem(self.fields.line, "a recipe must have merge_method")
        return method

    def _settings(self, fields: Fields, *, of_model: bool = False) -> Settings:
        return read_settings(fields, self.method, self.name, of_model=of_model)

    def _dtype(self, name: str) -> str | None:
        value = self.fields.text(name)
        if value is None:
            return None
        value = value.removeprefix("torch.")
        dtype = SHORT_NAMES.get(value, value)
        names = [str(dtype) for dtype in FLOATS]
        if dtype not in names:
            hint = suggestion(dtype, names) or f" (known: {', '.join(names)})"
            self.findings.problem(
                self.fields.line_of(name),
                f"{name} must be a float format, found {value!r:.40}{hint}",
            )
        return dtype

    def _chat_template(self) -> str | None:
        template = self.fields.text("chat_template")
        if template is not None and (problem := template_problem(template)):
            self.findings.problem(self.fields.line_of("chat_template"), problem)
        return template

    def _inputs(
        self, fields: Fields, scopes: tuple[Settings, ...]
    ) -> tuple[tuple[Source, ...], tuple[Slice, ...]]:
        """Models or slices of the recipe, or of a module."""
        models = [self._source(entry, "a model") for entry in fields.items("models")]
        if models and self.base and self.base not in [s.model for s in models]:
            line = self.fields.line_of("base_model")
            models.append(Source(self.base, line=line))
        if "models" in fields:
            self._check_sources(models, self.base, scopes, fields.line_of("models"))
        slices = [self._slice(entry, scopes) for entry in fields.items("slices")]
        for name in ("models", "slices"):
            if name in fields and fields.entries[name].value == []:
                self.findings.problem(fields.line_of(name), f"{name} must not be empty")
        return tuple(models), tuple(slices)

    def _source(self, entry: Entry, noun: str) -> Source:
        names, ignored = ["model", "parameters"], OF_MODEL
        if noun != "a model":
            names, ignored = [*names, "layer_range"], MISPLACED
        fields = Fields(entry, noun, names, self.findings, ignored)
        model = read_model(fields, "model", required=fields.is_mapping)
        return Source(
            model=model,
            parameters=self._settings(fields, of_model=True),
            layer_range=self._layer_range(fields) if "layer_range" in names else None,
            line=fields.line,
        )

    def _layer_range(self, fields: Fields) -> tuple[int, int] | None:
        if "layer_range" not in fields:
            if fields.is_mapping:
                self.findings.problem(fields.line, "a source must have layer_range")
            return None
        entry = fields.entries["layer_range"]
        items = entry.value if isinstance(entry.value, list) else []
        layers = [whole_number(item.value) for item in items]
        if len(layers) != 2 or None in layers:
            fields.expected("layer_range", "[first, last + 1], two whole numbers")
            return None
        first, end = (int(layer or 0) for layer in layers)
        if not 0 <= first < end:
            self.findings.problem(
                entry.line,
                "layer_range must be [first, last + 1] with the first layer from 0 on "
                f"and before the last, found [{first}, {end}]",
            )
            return None
        return first, end

    def _slice(self, entry: Entry, scopes: tuple[Settings, ...]) -> Slice:
        names = ("sources", "base_model", "residual_weight", "parameters")
        fields = Fields(entry, "a slice", names, self.findings, MISPLACED)
        sources = [self._source(item, "a source") for item in fields.items("sources")]
        if not sources and fields.is_mapping:
            self.findings.problem(fields.line, "a slice must have sources")
        if "residual_weight" in fields:
            self.findings.note(
                fields.line_of("residual_weight"),
                "residual_weight has no effect, as in mergekit",
            )
        parameters = self._settings(fields)
        base = read_model(fields, "base_model", required=False) or None
        self._check_lengths(sources, fields.line)
        if sources:
            used = base or self.base
            self._check_sources(sources, used, (parameters, *scopes), fields.line)
        return Slice(
            sources=tuple(sources),
            parameters=parameters,
            base_model=base,
            residual_weight=fields.number("residual_weight"),
            line=fields.line,
        )

    def _module(self, name: str, entry: Entry, shared: Settings) -> Module:
        names = ("models", "slices", "parameters")
        fields = Fields(entry, f"module {name!r}", names, self.findings, MISPLACED)
        if fields.is_mapping and ("models" in fields) == ("slices" in fields):
            self.findings.problem(
                fields.line, f"module {name!r} must have either models or slices"
            )
        parameters = self._settings(fields)
        models, slices = self._inputs(fields, (parameters, shared))
        return Module(models, slices, parameters, fields.line)

    def _check_lengths(self, sources: Sequence[Source], line: int) -> None:
        ranges = [source.layer_range for source in sources if source.layer_range]
        if len({end - first for first, end in ranges}) > 1:
            shown = ", ".join(f"[{first}, {end}]" for first, end in ranges)
            self.findings.problem(
                line,
                "layer_range of all sources of a slice must have the same number of "
                f"layers, found {shown}",
            )

    def _check_sources(
        self,
        sources: Sequence[Source],
        base: str | None,
        scopes: tuple[Settings, ...],
        line: int,
    ) -> None:
        """Check the models of a merge or of a slice against its method."""
        method = self.method
        lines: dict[tuple[str, tuple[int, int] | None], int] = {}
        for source in sources:
            key = source.model, source.layer_range
            if key in lines and source.model:
                self.findings.problem(
                    source.line,
                    f"model {source.model} is also in line {lines[key]}; "
                    "list it once, with the sum of the weights",
                )
            lines[key] = source.line
        if method is None or not all(source.model for source in sources):
            return
        members, held_apart = method.members_of(sources, base)
        needs_base = method.base in ("first", "ancestor")
        if needs_base and base is None:
            self.findings.problem(line, f"{self.name} needs base_model")
            return
        names = [source.model for source in sources]
        if base is not None and method.base != "member" and base not in names:
            self.findings.problem(
                line, f"base_model {base} must be among the sources of each slice"
            )
        else:
            self._check_number(len(members), line)
        if method.base == "ancestor" and members and held_apart is None:
            self.findings.note(line, "only the base is merged: the result is a copy")
            return
        if held_apart is not None and held_apart.parameters:
            self.findings.note(
                held_apart.line, "parameters of the base have no effect, as in mergekit"
            )
        self._check_required(members, scopes, line)

    def _check_number(self, n_members: int, line: int) -> None:
        assert self.method is not None
        least, most = self.method.n_members
        if least <= n_members and (most is None or n_members <= most):
            return
        expected = f"{least}" if least == most else f"at least {least}"
        beside = " beside the base" if self.method.base == "ancestor" else ""
        self.findings.problem(
            line,
            f"{self.name} needs {expected} model{'s' * (least != 1)}{beside}, found "
            f"{n_members}",
        )

    def _check_required(
        self, members: Sequence[Source], scopes: tuple[Settings, ...], line: int
    ) -> None:
        assert self.method is not None
        for parameter in self.method.parameters:
            name = parameter.name
            is_shared = any(name in scope for scope in scopes)
            if parameter.default is not REQUIRED or is_shared:
                continue
            if not parameter.of_model:
                self.findings.problem(
                    line, f"{self.name} needs {name}; add it under parameters"
                )
                continue
            for source in members:
                if name not in source.parameters:
                    self.findings.problem(
                        source.line,
                        f"{self.name} needs {name} for model {source.model}; add it "
                        "under its parameters, or under those of the merge",
                    )
