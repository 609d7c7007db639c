"""What a model of transformers answers to tokens: hidden states of chosen layers, and a pooled vector.

``hidden_states`` of transformers holds the embeddings, then the output of every layer, with one trap: in transformers 5
the last of them is the one *after* the model's final normalisation.  The one before is caught where it enters that.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

FINAL_NORMS = ("norm", "language_model.norm", "final_layer_norm", "text_model.final_layer_norm",
               "encoder.final_layer_norm", "model.norm")


@dataclass(frozen=True)
class Answer:
    """states: the hidden states asked for, each ``[B, L, D]``;  output: all that the model returned."""

    states: list[Tensor]
    output: Any


def hidden_states(model: nn.Module, ids: Tensor, mask: Tensor | None, layers: Sequence[int],
                  final_norm: bool = True) -> Answer:
    """Hidden states of ``layers`` (0 the embeddings, -1 the last) for tokens ``[B, L]``.

    mask: 1 where the model is to look, None for everywhere;  final_norm: whether the last hidden state is taken after
    the model's final normalisation.  IndexError for a layer that is not there.
    """
    model = without_head(model)
    several = any(layer != -1 for layer in layers)
    told: dict[str, Any] = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    caught: list[Tensor] = []
    hook = None
    if not final_norm:
        hook = final_norm_of(model).register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    try:
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=several, **told)
    finally:
        if hook is not None:
            hook.remove()

    def state(layer: int) -> Tensor:
        if layer == -1 or (several and layer == len(output.hidden_states) - 1):
            return output.last_hidden_state if final_norm else caught[-1]
        return output.hidden_states[layer]

    return Answer([state(layer) for layer in layers], output)


def pooled_vector(output: Any) -> Tensor:
    """CLIP's vector for the whole text ``[B, P]``: projected, where the model has a projection."""
    return output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output


def without_head(model: nn.Module) -> nn.Module:
    """The model without the layer that predicts words, which costs much and says nothing here."""
    predicts = getattr(model, "get_output_embeddings", lambda: None)() is not None
    return getattr(model, "base_model", model) if predicts else model


def final_norm_of(model: nn.Module) -> nn.Module:
    """The normalisation after the last layer.  ValueError where it is not found."""
    modules = dict(model.named_modules())
    for name in FINAL_NORMS:
        if name in modules:
            return modules[name]
    raise ValueError(f"{type(model).__name__} has no final normalisation under a known name")
