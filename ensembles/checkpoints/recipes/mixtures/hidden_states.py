"""Hidden states of a language model on prompts, with one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.directories.directory import TOKENIZERS
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor

if TYPE_CHECKING:
    from torch import nn

INSTALL = "pip install 'ensemble-avg[sentence]'"
# Padded tokens that run at once: their states in a 7B model take about 100 MB.
TOKENS = 2048
PREFIX = "model."


def tokenize(base: Checkpoint, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts, each after the token of the beginning if there is one.

    Parameters
    ----------
    base : Checkpoint
        Directory with a tokenizer.
    prompts : sequence of str
        Texts.

    Returns
    -------
    list of list of int

    Raises
    ------
    ImportError
        If transformers is not installed.
    ValueError
        If the tokenizer cannot be read, or a prompt has no tokens.
    """
    transformers = _transformers()
    # Without files, transformers makes an empty tokenizer for some model types.
    if not any(TOKENIZERS.fullmatch(Path(name).name) for name in base.files):
        raise ValueError(f"{base.name} must have a tokenizer for the router's prompts")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(base.path), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"the tokenizer of {base.name} cannot be read: {reason}"
        ) from None
    start = [] if tokenizer.bos_token is None else [tokenizer.bos_token_id]
    n_rows = base.layout[f"{PREFIX}embed_tokens.weight"].shape[0]
    ids = []
    for prompt in prompts:
        tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if not {*tokens} - {tokenizer.unk_token_id}:
            raise ValueError(
                f"prompt {prompt!r:.80} has no tokens that the tokenizer of "
                f"{base.name} knows, which is read as {type(tokenizer).__name__}"
            )
        if max(start + tokens) >= n_rows:
            raise ValueError(
                f"{base.name}: the tokenizer has token {max(start + tokens)}, and the "
                f"embeddings have {n_rows} rows"
            )
        ids.append(start + tokens)
    return ids


def token_embeddings(base: Checkpoint, ids: Sequence[int]) -> Float64:
    """Embeddings of tokens.

    Parameters
    ----------
    base : Checkpoint
        Model; only the rows of the tokens are read.
    ids : sequence of int
        Token ids.

    Returns
    -------
    ndarray of shape (n_tokens, hidden_size)
    """
    table = base.layout[f"{PREFIX}embed_tokens.weight"]
    row_size = table.shape[1] * table.dtype.itemsize
    rows = (
        _read(Tensor(table.dtype, table.shape[1:], table.source, start))
        for start in (table.offset + token * row_size for token in ids)
    )
    return np.stack([row.astype(np.float64) for row in rows])


def prompt_states(
    base: Checkpoint,
    ids: Sequence[Sequence[int]],
    *,
    average: bool,
    progress: Callable[[int], None],
) -> Float64:
    """Hidden states that enter each layer of a model, of the tokens of prompts.

    The model runs in float32. The parameters of a layer are read when it runs, and
    dropped after it.

    Parameters
    ----------
    base : Checkpoint
        Causal language model of transformers.
    ids : sequence of sequence of int
        Token ids of each prompt.
    average : bool
        Whether to take the mean over the tokens of a prompt instead of the last token.
    progress : callable
        Called with the number of bytes read since the last call.

    Returns
    -------
    ndarray of shape (n_prompts, n_layers, hidden_size)

    Raises
    ------
    ImportError
        If torch or transformers is not installed.
    ValueError
        If the base lacks a tensor of the model.
    """
    import torch

    model = _empty_model(base)
    layers = list(model.layers)
    states = np.empty((len(ids), len(layers), base.config["hidden_size"]))
    batch: list[int] = []  # positions of the prompts that run

    def record(index: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        for row, position in enumerate(batch):
            tokens = hidden[row, : len(ids[position])].double()
            state = tokens.mean(0) if average else tokens[-1]
            states[position, index] = state.numpy()

    for index, layer in enumerate(layers):
        load = partial(_load, base, f"{PREFIX}layers.{index}.", progress)
        layer.register_forward_pre_hook(load)
        layer.register_forward_pre_hook(partial(record, index), with_kwargs=True)
        layer.register_forward_hook(_drop)
    for batch in _batches(ids):
        length = max(len(ids[position]) for position in batch)
        # Padding follows the prompts, and attention is causal: no mask is needed.
        inputs = np.zeros((len(batch), length, base.config["hidden_size"]), np.float32)
        for row, position in enumerate(batch):
            embedded = token_embeddings(base, ids[position])
            inputs[row, : len(embedded)] = embedded
        with torch.no_grad():
            model(inputs_embeds=torch.from_numpy(inputs), use_cache=False)
    return states


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ImportError(
            "a router from prompts needs the package transformers; install it with "
            f"{INSTALL}"
        ) from None
    return transformers


def _empty_model(base: Checkpoint) -> Any:
    """Decoder without parameters, and without its last norm."""
    import torch

    transformers = _transformers()
    kind = transformers.CONFIG_MAPPING[base.config["model_type"]]
    config = kind.from_dict(dict(base.config))
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    model.rotary_emb = type(model.rotary_emb)(config=config)  # has buffers of its own
    model.norm = torch.nn.Identity()
    return model.eval()


def _batches(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Positions of prompts that run at once, of similar lengths."""
    batch: list[int] = []
    for position in sorted(range(len(ids)), key=lambda position: len(ids[position])):
        if batch and (len(batch) + 1) * len(ids[position]) > TOKENS:
            yield batch
            batch = []
        batch.append(position)
    yield batch


def _load(
    base: Checkpoint,
    prefix: str,
    progress: Callable[[int], None],
    module: nn.Module,
    args: Any,
) -> None:
    """Give a module its parameters."""
    import torch

    state = {}
    for name in module.state_dict():
        tensor = base.tensor(f"{prefix}{name}")
        if tensor is None:
            raise ValueError(f"{base.name} lacks the tensor {prefix + name!r}")
        state[name] = torch.from_numpy(_read(tensor).astype(np.float32))
        progress(tensor.nbytes)
    module.load_state_dict(state, assign=True)


def _drop(module: nn.Module, args: Any, output: Any) -> None:
    module.to("meta")


def _read(tensor: Tensor) -> Array:
    array = np.empty(tensor.shape, tensor.dtype)
    flat = array.reshape(-1).view(np.uint8)
    tensor.source.read_into(flat.data, tensor.offset)
    return array
