"""Recipes: merges with their models, methods and parameters, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A number, text or boolean; a list of them is a gradient over the layers; a list of
# mappings with `value` and `filter` has one for the tensors of each filter.
Setting = Any
Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class Source:
    """A model of a recipe, with its parameters.

    Parameters
    ----------
    model : str
        Path of the model as written, optionally followed by ``+`` and the path of an
        adapter.
    parameters : mapping of str to value, default={}
        Parameters of this model, such as ``weight``; see `Setting`.
    layer_range : (int, int) or None, default=None
        First layer, and the layer after the last; None for all layers.
    line : int, default=0
        Line of the recipe, from 1.
    """

    model: str
    parameters: Settings = field(default_factory=dict)
    layer_range: tuple[int, int] | None = None
    line: int = 0


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the result, and the models that they are merged from.

    Parameters
    ----------
    sources : tuple of Source
        Models with a range of layers each, all of the same length.
    parameters : mapping of str to value, default={}
        Parameters of the slice.
    base_model : str or None, default=None
        Base of the slice; None means that of the recipe.
    residual_weight : float or None, default=None
        Read by mergekit and without effect in it.
    line : int, default=0
        Line of the recipe, from 1.
    """

    sources: tuple[Source, ...]
    parameters: Settings = field(default_factory=dict)
    base_model: str | None = None
    residual_weight: float | None = None
    line: int = 0


@dataclass(frozen=True)
class Module:
    """A part of a model with several, such as the text decoder of a vision model.

    Parameters
    ----------
    models : tuple of Source, default=()
        Models that the module is merged from; empty if there are slices.
    slices : tuple of Slice, default=()
        Slices of the module; empty if there are models.
    parameters : mapping of str to value, default={}
        Parameters of the module.
    line : int, default=0
        Line of the recipe, from 1.
    """

    models: tuple[Source, ...] = ()
    slices: tuple[Slice, ...] = ()
    parameters: Settings = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True)
class TokenEmbedding:
    """Origin of the embedding of a token.

    Parameters
    ----------
    model : str or None, default=None
        Model whose embedding of the token is used; None and ``is_zero=False`` chooses
        as for tokens that the recipe does not name.
    token : str or None, default=None
        Token of ``model`` whose embedding is used; None means the same token, unless
        there is a ``token_id``.
    token_id : int or None, default=None
        Row of the embeddings of ``model``, in place of ``token``.
    is_zero : bool, default=False
        Whether the embedding is zero (``kind: zero``).
    force : bool, default=False
        Whether all models get this embedding, also models that have the token.
    line : int, default=0
        Line of the recipe, from 1.
    """

    model: str | None = None
    token: str | None = None
    token_id: int | None = None
    is_zero: bool = False
    force: bool = False
    line: int = 0


@dataclass(frozen=True)
class Tokenizer:
    """Tokenizer of the result: ``tokenizer_source`` or ``tokenizer`` of the recipe.

    Parameters
    ----------
    source : str, default="union"
        "union", "base", or the path of a model.
    tokens : mapping of str to TokenEmbedding, default={}
        Origin of the embeddings of single tokens.
    pad_to_multiple_of : int or None, default=None
        The vocabulary is padded to a multiple of this number; None pads nothing.
    line : int, default=0
        Line of the recipe, from 1.
    """

    source: str = "union"
    tokens: Mapping[str, TokenEmbedding] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None
    line: int = 0


@dataclass(frozen=True)
class Recipe:
    """One merge.

    Parameters
    ----------
    method : str
        Name of the merge method in mergekit, such as "linear" or "ties", or of a rule
        that mergekit does not have.
    models : tuple of Source, default=()
        Models that are merged; empty if there are slices or modules.
    slices : tuple of Slice, default=()
        Slices of the result; empty if there are models or modules.
    modules : mapping of str to Module, default={}
        Parts of the result by name; empty if there are models or slices.
    base_model : str or None, default=None
        Path of the base.
    parameters : mapping of str to value, default={}
        Parameters of the merge.
    dtype : str or None, default=None
        Dtype of the result; mergekit also computes in it.
    out_dtype : str or None, default=None
        Dtype of the result, before ``dtype``.
    tokenizer : Tokenizer or None, default=None
        Tokenizer of the result; None keeps that of the base, or of the first model.
    chat_template : str or None, default=None
        "auto", the name of a template, or its text; None keeps that of the tokenizer.
    name : str or None, default=None
        Name of the result in a file with several merges.
    notes : tuple of str, default=()
        Messages about entries that have no effect, one sentence each.
    path : Path, default=Path()
        File that the recipe was read from.
    line : int, default=1
        Line of the recipe, from 1.
    """

    method: str
    models: tuple[Source, ...] = ()
    slices: tuple[Slice, ...] = ()
    modules: Mapping[str, Module] = field(default_factory=dict)
    base_model: str | None = None
    parameters: Settings = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    name: str | None = None
    notes: tuple[str, ...] = ()
    path: Path = Path()
    line: int = 1


@dataclass(frozen=True)
class Expert:
    """An expert of a mixture.

    Parameters
    ----------
    model : str
        Path of the model, see `Source`.
    positive_prompts : tuple of str, default=()
        Texts that the router should send to this expert.
    negative_prompts : tuple of str, default=()
        Texts that it should send to others.
    noise_scale : float or None, default=None
        Standard deviation of noise that is added to the parameters; None adds none.
    residual_scale : float or None, default=None
        Factor of the expert's output; None is 1.
    line : int, default=0
        Line of the recipe, from 1.
    """

    model: str
    positive_prompts: tuple[str, ...] = ()
    negative_prompts: tuple[str, ...] = ()
    noise_scale: float | None = None
    residual_scale: float | None = None
    line: int = 0


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts from dense models, mergekit-moe's recipe.

    Parameters
    ----------
    base_model : str
        Path of the model whose attention and embeddings are used.
    experts : tuple of Expert
        Experts that the router chooses from.
    shared_experts : tuple of Expert, default=()
        Experts that are always used.
    gate_mode : str, default="hidden"
        How the router is computed: "hidden" (or "hidden_last"), "hidden_avg",
        "cheap_embed", "random" or "uniform_random".
    experts_per_token : int, default=2
        Number of experts that are used for a token.
    architecture : str or None, default=None
        Architecture of the result, such as "mixtral" or "qwen"; None chooses the first
        that suits the models.
    seed : int, default=0
        Seed of random routers, and of the noise of experts; mergekit has an option of
        its command for it.
    dtype : str or None, default=None
        Dtype of the result.
    name : str or None, default=None
        Name of the result in a file with several merges.
    notes : tuple of str, default=()
        Messages about entries that have no effect, one sentence each.
    path : Path, default=Path()
        File that the recipe was read from.
    line : int, default=1
        Line of the recipe, from 1.
    """

    base_model: str
    experts: tuple[Expert, ...]
    shared_experts: tuple[Expert, ...] = ()
    gate_mode: str = "hidden"
    experts_per_token: int = 2
    architecture: str | None = None
    seed: int = 0
    dtype: str | None = None
    name: str | None = None
    notes: tuple[str, ...] = ()
    path: Path = Path()
    line: int = 1
