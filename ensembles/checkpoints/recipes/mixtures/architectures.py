"""Architectures of mixtures of experts: names of tensors, and configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ensembles.checkpoints.recipes.document import Mixture

NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
ATTENTION = (*(f"self_attn.{p}.weight" for p in PROJECTIONS), "self_attn.o_proj.weight")
BIASES = tuple(f"self_attn.{p}.bias" for p in PROJECTIONS)
# Values of a key that a configuration leaves out, where the mixture has another
# default; "head_dim" and "num_key_value_heads" follow from the number of heads.
DEFAULTS = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False}
KEY_VALUE_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32}
# Code and settings of the dense model that the mixture does not have.
DROPPED = ("auto_map", "layer_types", "max_window_layers")


@dataclass(frozen=True)
class Architecture:
    """Architecture of a mixture of experts in transformers.

    Parameters
    ----------
    name : str
        Name in the field ``architecture`` of a recipe, as in mergekit.
    model_type : str
        Name in a configuration.
    class_name : str
        Class of the model in transformers.
    members : tuple of str
        Model types of the dense models.
    block : str
        Name of the module that has router and experts, in a layer.
    parts : mapping of str to str
        Name of each matrix in a dense model, to its name in an expert.
    tensors : tuple of str
        Other tensors of a layer.
    added_biases : tuple of str, default=()
        Tensors of a layer that are zero if the base does not have them.
    has_shared : bool, default=False
        Whether there is a shared expert, with a gate.
    n_experts : str, default="num_experts"
        Key of the number of experts in a configuration.
    sizes : tuple of str, default=()
        Keys whose value is the ``intermediate_size`` of the base.
    settings : mapping of str to value, default={}
        Further entries of a configuration.
    """

    name: str
    model_type: str
    class_name: str
    members: tuple[str, ...]
    block: str
    parts: Mapping[str, str]
    tensors: tuple[str, ...]
    added_biases: tuple[str, ...] = ()
    has_shared: bool = False
    n_experts: str = "num_experts"
    sizes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self, base: Mapping[str, Any], mixture: Mixture) -> dict[str, Any]:
        """Configuration of the mixture.

        Parameters
        ----------
        base : mapping of str to value
            Configuration of the base.
        mixture : Mixture
            The recipe.

        Returns
        -------
        dict of str to value
        """
        kept = {key: value for key, value in base.items() if key not in DROPPED}
        return {
            **_defaults(base),
            **kept,
            "architectures": [self.class_name],
            "model_type": self.model_type,
            self.n_experts: len(mixture.experts),
            "num_experts_per_tok": mixture.experts_per_token,
            **dict.fromkeys(self.sizes, base["intermediate_size"]),
            **self.settings,
        }


_QWEN_PARTS = {part: part for part in ("gate_proj", "up_proj", "down_proj")}
_QWEN_SETTINGS = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "use_sliding_window": False,
    "sliding_window": None,
}
# In the order in which they are tried.
ARCHITECTURES = (
    Architecture(
        "mixtral",
        "mixtral",
        "MixtralForCausalLM",
        members=("llama", "mistral"),
        block="block_sparse_moe",
        parts={"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
        tensors=(*NORMS, *ATTENTION),
        n_experts="num_local_experts",
    ),
    Architecture(
        "qwen moe",
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        members=("llama", "mistral", "qwen2"),
        block="mlp",
        parts=_QWEN_PARTS,
        tensors=(*NORMS, *ATTENTION, *BIASES),
        added_biases=BIASES,
        has_shared=True,
        sizes=("moe_intermediate_size", "shared_expert_intermediate_size"),
        settings={**_QWEN_SETTINGS, "qkv_bias": True},
    ),
    Architecture(
        "qwen3 moe",
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        members=("qwen3",),
        block="mlp",
        parts=_QWEN_PARTS,
        tensors=(
            *NORMS,
            *ATTENTION,
            *(f"self_attn.{p}_norm.weight" for p in "qk"),
        ),
        sizes=("moe_intermediate_size",),
        settings=_QWEN_SETTINGS,
    ),
)


def _defaults(base: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that the base leaves to the defaults of its model type."""
    n_heads, kind = base["num_attention_heads"], base["model_type"]
    defaults = {
        **DEFAULTS,
        "num_key_value_heads": KEY_VALUE_HEADS.get(kind, n_heads),
        "head_dim": 128 if kind == "qwen3" else base["hidden_size"] // n_heads,
    }
    if "rope_parameters" not in base:
        defaults["rope_theta"] = 10000.0
    if kind in ("llama", "mistral"):
        defaults["sliding_window"] = 4096 if kind == "mistral" else None
    return defaults


def choose_architecture(mixture: Mixture, model_type: str) -> Architecture:
    """Architecture of a mixture of models of a type.

    Parameters
    ----------
    mixture : Mixture
        The recipe.
    model_type : str
        Type of the base and of the models of all experts.

    Returns
    -------
    Architecture
        The one that the recipe names, else the first that suits.

    Raises
    ------
    ValueError
        If none suits; the message has the reason for each.
    """
    wanted = (mixture.architecture or "").lower().replace("_", " ")
    named = [a for a in ARCHITECTURES if _is_named(a, wanted)]
    if not named:
        known = ", ".join(a.name for a in ARCHITECTURES)
        hint = ""
        if wanted.startswith("deepseek"):
            hint = (
                ": transformers has no DeepSeek model with the attention of Llama, and "
                "mergekit's runs code from the Hub"
            )
        raise ValueError(
            f"architecture must be one of {known}, found {mixture.architecture!r}{hint}"
        )
    reasons = {a.name: [*_misfits(a, mixture, model_type)] for a in named}
    for architecture in named:
        if not reasons[architecture.name]:
            return architecture
    raise ValueError(
        "no architecture suits the models: "
        + "; ".join(f"{name} {' and '.join(why)}" for name, why in reasons.items())
    )


def _is_named(architecture: Architecture, wanted: str) -> bool:
    model_type = architecture.model_type.replace("_", " ")
    return architecture.name.startswith(wanted) or model_type == wanted


def _misfits(a: Architecture, mixture: Mixture, model_type: str) -> Iterator[str]:
    if model_type not in a.members:
        yield f"is made of {' or '.join(a.members)} models, found {model_type!r}"
    n_shared = len(mixture.shared_experts)
    if n_shared != a.has_shared:
        wanted = "one shared expert" if a.has_shared else "no shared expert"
        yield f"has {wanted} (shared_experts), found {n_shared}"
