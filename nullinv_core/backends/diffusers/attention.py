"""An attention processor for diffusers that lets an AttentionControl in and stays on the fast path elsewhere."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...denoiser import AttentionControl, attend


class ControlledAttention:
    """Processor of every attention layer. The control arrives with each call, as ``cross_attention_kwargs``.

    Rows and layers that the control does not want go through ``scaled_dot_product_attention``; so does replaced
    self-attention, which only needs other queries and keys. Dense probabilities exist for wanted cross-attention alone.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        control: AttentionControl | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, states in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        positions = query.shape[2]
        if control is not None and encoder_hidden_states is None and control.wants_self(positions):
            query, key = query.clone(), key.clone()
            rows = control.rows
            query[rows], key[rows] = control.self_attention(query[rows], key[rows])
        if control is not None and encoder_hidden_states is not None and control.wants_cross(positions):
            attended = _with_edited_rows(attn, query, key, value, control)
        else:
            attended = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=attn.scale)
        attended = attended.transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            attended = layer(attended)
        return attended


def _with_edited_rows(attn: Attention, query: Tensor, key: Tensor, value: Tensor, control: AttentionControl) -> Tensor:
    rows = control.rows
    attended = torch.empty_like(query[..., : value.shape[-1]])
    attended[rows] = attend(query[rows], key[rows], value[rows], attn.scale, control)
    for rest in (slice(0, rows.start), slice(rows.stop, len(query))):
        if len(query[rest]):
            attended[rest] = scaled_dot_product_attention(query[rest], key[rest], value[rest], scale=attn.scale)
    return attended
