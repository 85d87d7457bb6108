# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""A plain transcription of the published algorithms, one image at a time, that shares no code with the library.

Null-text inversion: Mokady et al. 2022, algorithm 1 with the authors' constants. Prompt-to-Prompt: Hertz et al. 2022
with dense attention matrices everywhere and a controller that keeps state, as the authors' code is built.
"""

import math

import torch

THRESHOLD = 0.3


class DenseAttention:
    """A diffusers attention processor that always builds the whole attention matrix and shows it to a controller."""

    def __init__(self, controller=None):
        self.controller = controller

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        batch, _, width = q.shape
        size = width // attn.heads
        out = torch.zeros_like(q)
        matrices = []
        for head in range(attn.heads):
            part = slice(head * size, (head + 1) * size)
            scores = torch.einsum("bid,bjd->bij", q[..., part], k[..., part]) / math.sqrt(size)
            matrices.append(torch.softmax(scores, -1))
        weights = torch.stack(matrices, 1)
        if self.controller is not None:
            half = batch // 2
            weights[half:] = self.controller(weights[half:].clone(), is_cross)
        for head in range(attn.heads):
            part = slice(head * size, (head + 1) * size)
            out[..., part] = torch.einsum("bij,bjd->bid", weights[:, head], v[..., part])
        return attn.to_out[1](attn.to_out[0](out))


class Controller:
    """Cross- and self-attention edits for one source and several edits, and the store that local blend reads.

    pairs: per edit a list of (source token, edit token, share); columns without a pair keep their own attention.
    windows: per edit and step the edit tokens whose window is open.
    """

    def __init__(self, pairs, equalizers, windows, self_end, map_positions):
        self.pairs, self.equalizers, self.windows = pairs, equalizers, windows
        self.self_end, self.map_positions = self_end, map_positions
        self.step, self.stored = 0, []

    def __call__(self, weights, is_cross):
        source = weights[0].clone()
        for e in range(1, len(weights)):
            if is_cross:
                for j in self.windows[e - 1][self.step]:
                    sources = [(i, share) for i, column, share in self.pairs[e - 1] if column == j]
                    column = sum(source[..., i] * share for i, share in sources) if sources else weights[e][..., j]
                    weights[e][..., j] = column * self.equalizers[e - 1].get(j, 1.0)
            elif self.step < self.self_end and weights.shape[2] <= 32**2:
                weights[e] = source
        if is_cross and weights.shape[2] == self.map_positions:
            self.stored.append(weights.clone())
        return weights

    def maps(self, side):
        total = sum(w.sum(1) for w in self.stored)
        return total.reshape(total.shape[0], side, side, -1)


def region(maps, tokens, size, pool):
    heat = maps[..., tokens].sum(-1)[None, None]
    if pool:
        heat = torch.nn.functional.max_pool2d(heat, 3, 1, 1)
    heat = torch.nn.functional.interpolate(heat, size=size)
    return (heat / heat.max() > THRESHOLD)[0, 0]


def local_blend(latents, maps, words, excluded):
    """The source's latents put back outside (source region or edit region), and inside the excluded words' regions.

    words, excluded: one token list per branch.
    """
    size = latents.shape[2:]
    out = latents.clone()
    for e in range(1, len(latents)):
        inside = region(maps[0], words[0], size, True) | region(maps[e], words[e], size, True)
        inside &= ~(region(maps[0], excluded[0], size, False) | region(maps[e], excluded[e], size, False))
        out[e] = latents[0] + inside.to(latents.dtype) * (latents[e] - latents[0])
    return out


def ddim(latents, noise, alpha_from, alpha_to):
    """DDIM by way of the predicted clean image."""
    clean = (latents - math.sqrt(1 - alpha_from) * noise) / math.sqrt(alpha_from)
    return math.sqrt(alpha_to) * clean + math.sqrt(1 - alpha_to) * noise


def predict(unet, latents, timestep, context):
    return unet(latents.to(unet.dtype), torch.tensor(timestep), context.to(unet.dtype)).sample.to(latents.dtype)


def inversion(unet, latents, context, timesteps, alphas):
    """z*_0 … z*_T. alphas[0] is the clean end's."""
    trajectory = [latents]
    for i, t in enumerate(timesteps):
        noise = predict(unet, trajectory[-1], t, context)
        trajectory.append(ddim(trajectory[-1], noise, alphas[i], alphas[i + 1]))
    return trajectory


def null_text(unet, trajectory, context, null, timesteps, alphas, w, inner=10, epsilon=1e-5, growth=2e-5):
    """Null embeddings, losses and iterations, noisiest first, by a hand-written Adam."""
    latents, embeddings, losses, counts = trajectory[-1], [], [], []
    for i in range(len(timesteps)):
        index = len(timesteps) - 1 - i
        t, a_t, a_prev = timesteps[index], alphas[index + 1], alphas[index]
        rate = 1e-2 * (1 - i / 100)
        text = predict(unet, latents, t, context)
        first, second = torch.zeros_like(null), torch.zeros_like(null)
        for j in range(inner):
            variable = null.clone().requires_grad_(True)
            free = predict(unet, latents, t, variable)
            loss = ((ddim(latents, free + w * (text - free), a_t, a_prev) - trajectory[index]) ** 2).mean()
            (gradient,) = torch.autograd.grad(loss, variable)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            corrected = first / (1 - 0.9 ** (j + 1)), second / (1 - 0.999 ** (j + 1))
            null = null - rate * corrected[0] / (corrected[1].sqrt() + 1e-8)
            if loss.item() < epsilon + i * growth:
                break
        embeddings.append(null)
        losses.append(loss.item())
        counts.append(j + 1)
        free = predict(unet, latents, t, null)
        latents = ddim(latents, free + w * (text - free), a_t, a_prev)
    return embeddings, losses, counts, latents


def edit(unet, start, contexts, embeddings, timesteps, alphas, w, controller, blend=None, side=None):
    """Sample all branches (source first) in one batch. blend: (token lists, excluded token lists, start share)."""
    branches = len(contexts)
    latents = start.repeat(branches, 1, 1, 1)
    for i in range(len(timesteps)):
        index = len(timesteps) - 1 - i
        null = embeddings[i].repeat(branches, 1, 1)
        controller.step = i
        noise = predict(unet, latents.repeat(2, 1, 1, 1), timesteps[index], torch.cat([null, contexts]))
        free, text = noise.chunk(2)
        latents = ddim(latents, free + w * (text - free), alphas[index + 1], alphas[index])
        if blend is not None and i >= int(blend[2] * len(timesteps)):
            latents = local_blend(latents, controller.maps(side), blend[0], blend[1])
    return latents
