"""Read recipes of mixtures of experts."""

from __future__ import annotations

from ensembles.checkpoints.planning.options import SHORT_NAMES
from ensembles.checkpoints.recipes.document import Expert, Mixture
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
GATE_MODES = ("hidden", "cheap_embed", "random", "uniform_random")
DTYPES = ("float32", "float16", "bfloat16", "float64")


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
    n_used = fields.whole("experts_per_token") or 2
    if len(experts) < n_used:
        findings.problem(
            fields.line_of("experts"),
            f"experts must be at least as many as experts_per_token, {n_used}, found "
            f"{len(experts)}",
        )
    if gate_mode in ("hidden", "cheap_embed"):
        _check_prompts(experts, gate_mode, findings)
    dtype = fields.text("dtype")
    if dtype is not None:
        dtype = dtype.removeprefix("torch.")
        dtype = SHORT_NAMES.get(dtype, dtype)
    return Mixture(
        base_model=read_model(fields, "base_model"),
        experts=tuple(experts),
        shared_experts=tuple(shared),
        gate_mode=gate_mode,
        experts_per_token=n_used,
        architecture=fields.text("architecture"),
        dtype=dtype,
        name=fields.text("name"),
        notes=findings.take_notes(),
        path=findings.path,
        line=fields.line,
    )


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


def _check_prompts(experts: list[Expert], gate_mode: str, findings: Findings) -> None:
    for expert in experts:
        if not expert.positive_prompts:
            findings.problem(
                expert.line,
                f"an expert must have positive_prompts for gate_mode {gate_mode!r}, "
                "from which its router is computed",
            )
    prompts = {(e.positive_prompts, e.negative_prompts) for e in experts}
    if len(experts) > 1 and len(prompts) == 1 and experts[0].positive_prompts:
        findings.problem(
            experts[0].line,
            "the prompts of all experts are equal, so that the router cannot tell the "
            "experts apart; give each prompts of its own",
        )
