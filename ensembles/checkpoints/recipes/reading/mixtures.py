"""Read recipes of mixtures of experts."""

from __future__ import annotations

from ensembles.checkpoints.planning.options import SHORT_NAMES
from ensembles.checkpoints.recipes.document import Expert, Mixture
from ensembles.checkpoints.recipes.mixtures.checks import GATE_MODES, recipe_problems
from ensembles.checkpoints.recipes.reading.entries import Entry, Findings
from ensembles.checkpoints.recipes.reading.fields import Fields
from ensembles.checkpoints.recipes.reading.models import read_model

NAMES = (
    "base_model",
    "experts",
    "shared_experts",
    "gate_mode",
    "experts_per_token",
    "architecture",
    "seed",
    "dtype",
    "name",
)
EXPERT_NAMES = (
    "source_model",
    "positive_prompts",
    "negative_prompts",
    "noise_scale",
    "residual_scale",
)


def read_mixture(entry: Entry, findings: Findings) -> Mixture:
    """Read a document of mergekit-moe.

    Parameters
    ----------
    entry : Entry
        The document.
    findings : Findings
        Problems and notes, to which others are added.

    Returns
    -------
    Mixture
        Entries that are not valid are left out.
    """
    fields = Fields(entry, "a mixture of experts", NAMES, findings)
    gate_mode = fields.choice("gate_mode", GATE_MODES) or "hidden"
    experts = [_expert(item, findings) for item in fields.items("experts")]
    shared = [_expert(item, findings) for item in fields.items("shared_experts")]
    dtype = fields.text("dtype")
    if dtype is not None:
        dtype = dtype.removeprefix("torch.")
        dtype = SHORT_NAMES.get(dtype, dtype)
    mixture = Mixture(
        base_model=read_model(fields, "base_model"),
        experts=tuple(experts),
        shared_experts=tuple(shared),
        gate_mode=gate_mode,
        experts_per_token=fields.whole("experts_per_token") or 2,
        architecture=fields.text("architecture"),
        seed=fields.whole("seed", least=0) or 0,
        dtype=dtype,
        name=fields.text("name"),
        notes=findings.take_notes(),
        path=findings.path,
        line=fields.line,
    )
    for line, message in recipe_problems(mixture):
        findings.problem(line, message)
    return mixture


def _expert(entry: Entry, findings: Findings) -> Expert:
    fields = Fields(entry, "an expert", EXPERT_NAMES, findings)
    return Expert(
        model=read_model(fields, "source_model"),
        positive_prompts=_prompts(fields, "positive_prompts"),
        negative_prompts=_prompts(fields, "negative_prompts"),
        noise_scale=fields.number("noise_scale"),
        residual_scale=fields.number("residual_scale"),
        line=fields.line,
    )


def _prompts(fields: Fields, name: str) -> tuple[str, ...]:
    prompts = []
    for item in fields.items(name):
        if isinstance(item.value, str):
            prompts.append(item.value)
        else:
            fields.findings.problem(
                item.line, f"{name} must be texts; put {item.plain!r:.40} in quotes"
            )
    return tuple(prompts)
