"""The whole way from a photo to its edit. No other module puts the stages together.

A photo is encoded and inverted, and null embeddings are made for it (``prepare``). From these it is sampled again
(``reconstruct``), or with edits beside it, which keep the photo's own pixels where they hardly differ (``apply``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from torch import Tensor

from . import editing
from .context import ANY_PRECISION, Context, cat, distance, same_text, stack
from .denoiser import Denoiser
from .editing import EditResult, Sampling
from .errors import InputError, short
from .files.store import Inversion
from .inversion.invert import invert
from .model import Model
from .null_text.embedding import embed
from .null_text.presets import DEFAULT, PRESETS
from .null_text.recipe import Recipe
from .null_text.settings import PAPER
from .photo.composite import keep_photo
from .photo.full_size import centre
from .photo.images import autoencoder_psnr
from .prompt_to_prompt.advice import advise
from .prompt_to_prompt.control import batch_edits
from .prompt_to_prompt.edit import Edit, plan_edits
from .prompt_to_prompt.emphasis import literal
from .prompt_to_prompt.prompt import Prompt
from .schedule import check_guidance, doubts
from .settings import STEPS, EditSettings
from .types import Callback, NullEmbeddings, Trajectory, ignore


@dataclass(frozen=True, repr=False)
class Edited:
    """What ``apply`` returns.

    ``pictures``: (B·E, H, W, 3) in 0…1, each photo's edits in a row. ``result``: the sampler's. ``prompts``: of the
    first photo and of its edits.
    """

    pictures: Tensor
    result: EditResult
    prompts: tuple[Prompt, ...]

    def keeping(self, photo: Tensor, reconstructed: Tensor) -> Edited:
        """The same with the photo's own pixels wherever the edit hardly differs (see ``keep_photo``); as large as a
        ``photo`` whose centre was scaled down."""
        whole, small = ((each.shape[1], each.shape[2]) for each in (photo, reconstructed))
        return replace(self, pictures=keep_photo(photo, self.pictures, reconstructed, centre(whole, small))[0])


def prepare(
    model: Model,
    photo: Tensor,
    prompt: str | Sequence[str],
    steps: int = STEPS.default,
    preset: str | Recipe = DEFAULT,
    guidance: float = PAPER.guidance,
    callback: Callback = ignore,
) -> Inversion:
    """The inversion of photos, floats (B, H, W, 3) in 0…1, with null embeddings, on the CPU.

    ``prompt``: what the photo shows, or a text for each. ``guidance``: of reconstruction and edits. The user is told
    where the autoencoder does not keep the photo.
    """
    check_guidance(guidance)
    recipe = _recipe(preset)
    latents, _ = encode(model, photo, prompt, steps)
    return prepare_latents(model, latents, prompt, steps, recipe, guidance, callback)[0]


def encode(model: Model, photo: Tensor, prompt: str | Sequence[str], steps: int) -> tuple[Tensor, float]:
    """Clean latents (B, C, h, w) of photos, and at how many dB the autoencoder alone gives these back.

    What may be wrong with the ``prompt`` or the number of ``steps`` is said before a picture is encoded.
    """
    model.schedule(steps)
    for text in _for_each(prompt, len(photo)):
        model.prompt(text)
    latents = model.encode_image(photo)
    return latents, autoencoder_psnr(model.decode(latents), photo, model.tell)


def prepare_latents(
    model: Model,
    latents: Tensor,
    prompt: str | Sequence[str],
    steps: int = STEPS.default,
    preset: str | Recipe = DEFAULT,
    guidance: float = PAPER.guidance,
    callback: Callback = ignore,
) -> tuple[Inversion, Tensor]:
    """``prepare`` for photos that are encoded; and the latents z_0 (B, C, h, w) that guided sampling now reaches."""
    recipe, schedule = _recipe(preset), model.schedule(steps)
    if said := doubts(schedule):
        model.tell(said)
    texts = _for_each(prompt, len(latents))
    prompts, empty = {text: model.prompt(text) for text in texts}, model.prompt("")
    *contexts, null_context = model.contexts([*prompts.values(), empty])
    of_text = dict(zip(prompts, contexts, strict=True))
    identity, sizes = model.fingerprint, model.sizes_of(latents)
    ready = model.conditioned(prompts[texts[0]], empty, sizes)

    def job(denoiser: Denoiser, clean: Tensor) -> tuple[Trajectory, NullEmbeddings, Tensor]:
        context = cat([of_text[text] for text in texts])
        null = null_context.lengthened(context.tokens).to(clean.device)
        trajectory = invert(denoiser, clean, context.to(clean.device), schedule, callback, recipe.inversion)
        found, reached = embed(denoiser, trajectory, null, recipe, guidance, callback, ready.only_text_differs)
        return trajectory.to("cpu"), found.to("cpu"), reached.cpu()

    trajectory, null, reached = ready.run(job, latents, schedule, gradients=recipe.optimizes(guidance))
    return Inversion(trajectory, null, texts, identity, model.place, ready.precision, sizes=sizes), reached


def optimize(
    model: Model, inversion: Inversion, preset: str | Recipe, guidance: float, callback: Callback = ignore
) -> Inversion:
    """The same inversion with null embeddings for another guidance or by another preset."""
    ready = _conditioned(model, inversion)
    (empty,) = ready.contexts([model.prompt("")])
    return replace(inversion, null=embedded(ready, inversion, empty, _recipe(preset), guidance, callback)[0])


def embedded(
    model: Model, inversion: Inversion, empty: Context, recipe: Recipe, guidance: float, callback: Callback = ignore
) -> tuple[NullEmbeddings, Tensor]:
    """Null embeddings of an inversion and the latents that they reach, on the CPU; ``empty``: the empty text's context.

    Where they are optimized, the model is asked first whether it still predicts the trajectory.
    """
    optimizes, check = recipe.optimizes(guidance), model.truth(inversion)
    as_long = empty.lengthened(inversion.trajectory.context.tokens)

    def job(denoiser: Denoiser, clean: Tensor) -> tuple[NullEmbeddings, Tensor]:
        trajectory = inversion.trajectory.to(clean.device)
        if optimizes:
            check(denoiser, trajectory)
        null_context = as_long.to(clean.device)
        null, reached = embed(denoiser, trajectory, null_context, recipe, guidance, callback, model.only_text_differs)
        return null.to("cpu"), reached.cpu()

    return model.run(job, inversion.trajectory.clean, inversion.trajectory.schedule, gradients=optimizes)


def reconstruct(model: Model, inversion: Inversion, guidance: float = 0.0, callback: Callback = ignore) -> Tensor:
    """The photos sampled again from their noise: pictures (B, H, W, 3) in 0…1.

    ``guidance``: 0 is that of the null embeddings. Raises InputError where another model made the inversion, or it has
    no null embeddings.
    """
    null, trajectory, ready = null_of(inversion), inversion.trajectory, _conditioned(model, inversion)

    def job(denoiser: Denoiser, clean: Tensor) -> Tensor:
        here = clean.device
        return editing.reconstruct(
            denoiser, trajectory.to(here), null.to(here), guidance or null.guidance, callback=callback
        )

    return ready.decode(ready.run(job, trajectory.clean, trajectory.schedule))


def apply(
    model: Model,
    inversion: Inversion,
    edits: str | Sequence[str],
    settings: EditSettings | None = None,
    guidance: float | Sampling = 0.0,
    photo: Tensor | None = None,
    callback: Callback = ignore,
) -> Edited:
    """Edit inverted photos: each shows what the texts ``edits`` say instead of its own text.

    ``guidance``: 0 is that of the null embeddings; a ``Sampling`` says more. ``photo``: the photos (B, H, W, 3), whose
    own pixels are kept where an edit hardly differs; None: everything is as the autoencoder draws it. Raises InputError
    where another model made the inversion, it has no null embeddings, or a word of the settings is in no text.
    """
    texts, count = [edits] if isinstance(edits, str) else edits, inversion.trajectory.batch
    every = [settings or EditSettings()] * count
    return apply_each(model, inversion, [texts] * count, every, guidance, photo, callback)


def apply_each(
    model: Model,
    inversion: Inversion,
    edits: Sequence[Sequence[str]],
    settings: Sequence[EditSettings],
    guidance: float | Sampling = 0.0,
    photo: Tensor | None = None,
    callback: Callback = ignore,
) -> Edited:
    """``apply`` with edits and settings of its own for each photo. ``edits``: equally many texts for each."""
    null, ready = null_of(inversion), _conditioned(model, inversion)
    if not all(edits):
        raise InputError("there is no edit; say what the picture should show instead")
    prompts = {text: model.prompt(text) for text in dict.fromkeys(chain(*edits))}
    sources = [source_prompt(inversion, model, image) for image in range(inversion.trajectory.batch)]
    _check_texts(ready, inversion, sources)
    made: dict[tuple[object, ...], tuple[list[Edit], Context]] = {}
    rows = []
    for source, texts, chosen in zip(sources, edits, settings, strict=True):
        key = source, tuple(texts), repr(chosen)
        if key not in made:
            of_photo = [prompts[text] for text in texts]
            plans = plan_edits(source, of_photo, inversion.trajectory.schedule.steps, chosen)
            advise(plans, model.tell)
            # a plan's own prompt may be repeated, and its encoding with it
            strong = [replace(p, weights=plan.prompt.weights) for p, plan in zip(of_photo, plans, strict=True)]
            made[key] = plans, of_edits(ready.contexts(strong), plans)
        rows.append(made[key])
    of_photos, contexts = zip(*rows, strict=True)
    asked = guidance if isinstance(guidance, Sampling) else Sampling(guidance)
    sampling = replace(asked, guidance=asked.guidance or null.guidance)
    result = sample(ready, inversion, null, of_photos, cat(contexts), sampling, callback)
    first = sources[0], *(prompts[text] for text in edits[0])
    found = Edited(ready.decode(result.latents.flatten(0, 1)), result, first)
    return found if photo is None else found.keeping(photo, ready.decode(inversion.trajectory.clean))


def sample(
    model: Model,
    inversion: Inversion,
    null: NullEmbeddings | Context,
    plans: Sequence[Sequence[Edit]],
    contexts: Context,
    sampling: Sampling,
    callback: Callback = ignore,
) -> EditResult:
    """Sample edits beside their photos. ``plans``: each photo's; ``contexts``: of (B, E) texts, as long as the plans
    are. The inversion's region limits edits too. Texts of unequal length are repeated up to one, as ComfyUI does for
    its own samplers."""
    tokens, whole = plans[0][0].source.length, inversion.trajectory
    trajectory = replace(whole, context=whole.context.lengthened(tokens))
    guides = _lengthened(null, tokens)
    limit = inversion.region
    if limit is not None and sampling.limit is not None:
        limit = limit & sampling.limit
        if not bool(limit.any()):
            raise InputError(
                "the mask of the inversion and that of the edit have no place in common, so nothing may change; leave "
                "one of them out"
            )
    check = sampling.check or model.truth(inversion)
    sampling = replace(sampling, limit=sampling.limit if limit is None else limit, check=check)

    def job(denoiser: Denoiser, clean: Tensor) -> EditResult:
        here = clean.device
        return editing.edit(
            denoiser, trajectory.to(here), guides.to(here), contexts.to(here), batch_edits(plans), sampling, callback
        )

    return model.run(job, trajectory.clean, trajectory.schedule, branches=1 + len(plans[0]))


def of_edits(contexts: Sequence[Context], plans: Sequence[Edit]) -> Context:
    """The contexts of each edit, of B texts, as ``sample`` takes them: of (B, E) texts."""
    return stack([context.lengthened(plans[0].source.length) for context in contexts], 1)


def null_of(inversion: Inversion) -> NullEmbeddings:
    """The null embeddings of an inversion; raises InputError where there are none."""
    if inversion.null is None:
        raise InputError("this inversion holds no null embeddings; invert the image again")
    return inversion.null


def source_prompt(inversion: Inversion, model: Model, image: int = 0) -> Prompt:
    """The prompt of one of an inversion's images.

    In files of old, brackets were no weights: there the text is read as it is spelled, if so it was inverted.
    """
    text, context = inversion.prompts[image], inversion.trajectory.context[image : image + 1]
    prompt = model.prompt(text)
    if any(weight != 1 for weight in prompt.weights):
        spelled = model.prompt(literal(text))
        found, as_spelled = (one.to(context) for one in model.contexts([prompt, spelled]))
        if _distance(as_spelled, context) < _distance(found, context):
            return spelled
    return prompt


def _check_texts(model: Model, inversion: Inversion, sources: Sequence[Prompt]) -> None:
    """Raise InputError where an inversion's trajectory is not of its own texts: a file says what it was told."""
    prompts = list(dict.fromkeys(sources))
    of_text = dict(zip(prompts, model.contexts(prompts), strict=True))
    for image, source in enumerate(sources):
        whole, found = inversion.trajectory.context[image : image + 1], of_text[source]
        if whole.tokens % found.tokens or not same_text(found.lengthened(whole.tokens).to(whole), whole, ANY_PRECISION):
            raise InputError(
                f'the inversion says that the photo shows "{short(source.text)}", but it was made with another text or '
                "another text encoder; invert the photo again, or save it in ComfyUI with its own text as prompt"
            )


def _distance(context: Context, other: Context) -> float:
    return float(distance(context, other)) if context.fits(other) else math.inf


def _conditioned(model: Model, inversion: Inversion) -> Model:
    """The model, told what the picture of an inversion was inverted with; raises InputError for another model."""
    model.check_made(inversion)
    return model.conditioned(source_prompt(inversion, model), model.prompt(""), inversion.sizes)


def _for_each(prompt: str | Sequence[str], count: int) -> tuple[str, ...]:
    """A prompt for each of so many photos."""
    texts = (prompt,) * count if isinstance(prompt, str) else tuple(prompt)
    if len(texts) != count:
        raise InputError(f"{count} photos need as many prompts, not {len(texts)}")
    return texts


def _recipe(preset: str | Recipe) -> Recipe:
    if isinstance(preset, Recipe):
        return preset
    if preset not in PRESETS:
        raise InputError(f'there is no preset "{short(preset)}"; there are {", ".join(PRESETS)}')
    return PRESETS[preset]


def _lengthened(null: NullEmbeddings | Context, tokens: int) -> NullEmbeddings | Context:
    """What guides edits, repeated up to so many tokens."""
    if isinstance(null, Context):
        return null.lengthened(tokens)
    pin = null.pin and replace(null.pin, null=null.pin.null.lengthened(tokens))
    return replace(null, embeddings=null.embeddings.lengthened(tokens), pin=pin)
