"""The edit benchmark's methods of others: each by what its paper promises."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import Attention

from benchmarks import edit_photo
from benchmarks.edit_attention import MutualSelfAttention, PhotoAttention, PhotoFeatures
from benchmarks.edit_cases import EditTask
from benchmarks.edit_ddpm import implicit_mask, mean_and_deviation, noise_maps, own_tokens
from benchmarks.edit_guidance import QUANTILE, Blended, Proximal
from benchmarks.edit_inversions import SMALL, aidi, residual, spd
from benchmarks.edit_methods import METHODS
from benchmarks.edit_photo import fresh, photo_of
from nullinv_core import EditSettings, Trajectory, plan_edit, reconstruct
from nullinv_core.backends.diffusers import load_model
from nullinv_core.backends.diffusers.attention import ControlledAttention, control_attention, edited_features
from nullinv_core.denoiser import Counted
from nullinv_core.prompt_to_prompt.control import EditBatch, StepControl, batch_edits
from nullinv_core.prompt_to_prompt.local_blend import blend_mask
from nullinv_core.prompt_to_prompt.maps import AttentionMaps
from nullinv_core.schedule import ddim_step, guide

STEPS = 5
TEXTS = [
    ("a red cat and a blue mug on snow", "a blue cat and a red mug on snow"),
    ("a photo of a dog", "a photo of a dog and a bus"),
]


def task(number, texts):
    """An edit of a smooth random picture of 32 pixels."""
    coarse = np.random.default_rng(number).random((4, 4, 3), np.float32)
    picture = np.kron(coarse, np.ones((8, 8, 1), np.float32))
    settings = EditSettings(blend_words=["cat"] if "cat" in texts[0] else [])
    return EditTask(f"task {number}", "any", picture, *texts, np.ones((32, 32), bool), settings)


@pytest.fixture(scope="module")
def photo(model_folder):
    """Two pictures under a tiny model, five steps, in float64: random networks magnify what is rounded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edit_photo, "STEPS", STEPS)
        made = photo_of(load_model(model_folder), [task(n, texts) for n, texts in enumerate(TEXTS)])
    made.model.denoiser.unet.double()
    names = ("latents", "source", "edited", "asked", "empty")
    return replace(made, **{name: getattr(made, name).to(torch.float64) for name in names})


def part_of(photo, row):
    """One picture of several."""
    rows = slice(row, row + 1)
    return replace(
        fresh(photo), tasks=photo.tasks[rows], latents=photo.latents[rows], source=photo.source[rows],
        edited=photo.edited[rows], asked=photo.asked[rows], plans=photo.plans[rows],
    )  # fmt: skip


@pytest.fixture
def asked_nothing(photo):
    """The same pictures, whose edits ask for what is there."""
    plans = tuple(plan_edit(plan.source, plan.source, STEPS, EditSettings()) for plan in photo.plans)
    return replace(fresh(photo), edited=photo.source, asked=photo.source, plans=plans)


EXACT = {"LEDITS++": 7.5, "edit-friendly": 1.0, "virtual inversion": 1.0}
"""Methods that give the photo back where nothing is asked, and at which guidance."""


@pytest.mark.parametrize("name", EXACT)
def test_an_edit_that_asks_for_nothing_gives_the_photo_back(asked_nothing, name):
    """Guards each method's own promise: with the photo's text as the edit's it retraces the photo."""
    found = METHODS[name](asked_nothing, EXACT[name])
    assert found == pytest.approx(asked_nothing.latents, abs=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_an_edit_that_asks_for_something_changes_the_photo(photo, name):
    """Guards the other half: the same methods do edit."""
    found = METHODS[name](fresh(photo), EXACT[name])
    assert (found - photo.latents).square().mean((1, 2, 3)).min() > 1e-6


@pytest.mark.parametrize("name", ["MasaCtrl", "plug-and-play"])
def test_beside_the_photo_an_empty_edit_is_plain_sampling(photo, name):
    """Guards what is borrowed: where edit and photo are the same, their attention and features are."""
    empty = replace(fresh(photo), asked=photo.empty.expand(len(photo.source)))
    trajectory = empty.trajectory("ddim", empty=True)
    exact = replace(empty, made={("ddim", True): _retraced(empty, trajectory)})
    found = METHODS[name](exact, 7.5)
    assert found == pytest.approx(exact.made["ddim", True].clean, abs=1e-6)


def _retraced(photo, trajectory):
    """The path of plain sampling from a trajectory's end."""
    latents = [trajectory.noisiest]
    for step in range(STEPS, 0, -1):
        epsilon = photo.denoiser(latents[0], photo.schedule.level(step), trajectory.context)
        latents.insert(0, ddim_step(latents[0], epsilon, photo.schedule, step))
    return Trajectory(torch.stack(latents), trajectory.context, photo.schedule)


class Gaussian:
    """ε of data that is Gaussian noise of spread 0.5, which is known (and linear)."""

    def __call__(self, latents, level, context, attention=None, unconditional=0):
        return (1 - level.alpha) ** 0.5 * latents / (0.25 * level.alpha + 1 - level.alpha)


@pytest.fixture
def gaussian(photo):
    """The same pictures where ε is known, twenty steps."""
    plans = tuple(plan_edit(plan.source, plan.prompt, 20, EditSettings()) for plan in photo.plans)
    return replace(fresh(photo), denoiser=Counted(Gaussian()), schedule=photo.model.schedule(20), plans=plans)


@pytest.mark.parametrize("name", ["proximal", "SPDInv"])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_guidance_that_asks_for_nothing_stays_on_the_trajectory(gaussian, name, guidance):
    """Guards proximal guidance: where the texts do not differ, nothing is guided and the photo comes back at any w."""
    assert METHODS[name](gaussian, guidance) == pytest.approx(gaussian.latents, abs=1e-6)


@pytest.mark.parametrize("name", ["proximal", "AIDI", "SPDInv"])
def test_regions_of_words_are_read_under_any_guidance(photo, name):
    """Guards edits that start with fresh noise: the network is asked for the photo's attention alone."""
    settings = EditSettings(fresh_noise=0.5, steady_words=["dog"])
    alone = part_of(photo, 1)
    (plan,) = alone.plans
    plans = (plan_edit(plan.source, plan.prompt, STEPS, settings),)
    for guidance in (1.0, 7.5):
        assert METHODS[name](replace(alone, plans=plans), guidance).isfinite().all()


@pytest.mark.parametrize("name", ["direct", "random path", "edit-friendly"])
def test_a_word_s_weight_counts_in_every_method(photo, name):
    """Guards reweighting edits, by attention or by encoding."""
    found = []
    for weight in (1.0, 3.0):
        weighed = replace(photo.tasks[0], settings=EditSettings(weights={"blue": weight}))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(edit_photo, "STEPS", STEPS)
            made = photo_of(photo.model, [weighed])
        found.append(METHODS[name](replace(made, latents=made.latents.double()), 2.0))
    assert (found[0] - found[1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["proximal", "AIDI"])
def test_a_guidance_of_one_is_no_special_case(photo, name):
    """Guards others' guidance where the sampler asks for nothing without text."""
    assert METHODS[name](photo, 1.0) == pytest.approx(METHODS[name](photo, 1 + 1e-6), abs=1e-3)


def mean_residual(photo, trajectory):
    """Mean residual of a trajectory's steps, (B,)."""
    steps = range(1, photo.schedule.steps + 1)
    latents = trajectory.latents
    found = [residual(photo.denoiser, latents[s], latents[s - 1], photo.source, photo.schedule, s) for s in steps]
    return torch.stack(found).mean(0)


def test_iterations_come_nearer_to_the_fixed_point(gaussian):
    """Guards AIDI: one iteration is DDIM inversion, each few more leave less, and sampling comes back nearer."""
    photo = gaussian
    few, more, many = (aidi(photo, iterations) for iterations in (1, 4, 16))
    assert torch.equal(few.latents, photo.trajectory("ddim").latents)
    for a, b in pairwise([few, more, many]):
        assert (mean_residual(photo, b) < 0.5 * mean_residual(photo, a)).all()
    ddim, found = (reconstruct(photo.denoiser, one, photo.empty[0], 1.0) - photo.latents for one in (few, many))
    assert found.square().mean() < 0.1 * ddim.square().mean()


def test_gradient_steps_come_nearer_to_the_fixed_point(gaussian):
    """Guards SPDInv: the residual falls with the rounds, pictures that are done are left alone, whoever is beside."""
    # larger than life: the authors' threshold is for larger errors than these have
    photo = replace(gaussian, latents=20 * gaussian.latents)
    ddim, some, more = photo.trajectory("ddim"), spd(photo, 5), spd(photo, 60)
    for a, b in pairwise([ddim, some, more]):
        assert (mean_residual(photo, b) < mean_residual(photo, a)).all()
    assert mean_residual(photo, more).max() < 2 * SMALL < mean_residual(photo, ddim).min()
    alone = part_of(photo, 0)
    alone = replace(alone, denoiser=photo.denoiser)
    assert spd(alone, 5).latents == pytest.approx(some.latents[:, :1], abs=1e-4)


def test_queries_and_keys_of_the_photo_give_its_layout():
    """Guards both ways to borrow self-attention, against dense attention written out."""
    torch.manual_seed(0)
    layer = Attention(query_dim=8, heads=2, dim_head=4)
    states = torch.randn(6, 5, 8)

    def split(part):
        return part(states).unflatten(-1, (2, 4)).transpose(1, 2)

    query, key, value = (split(part) for part in (layer.to_q, layer.to_k, layer.to_v))
    # rows are (photos, edits under ∅, edits)
    photos = torch.tensor([0, 1, 0, 1, 0, 1])

    def attended(query, key, value):
        return layer.to_out[0](((query @ key.mT / 2).softmax(-1) @ value).transpose(1, 2).flatten(2))

    def found(kind, text=None):
        # rows are pictures, each with (photo, edit under ∅, edit)
        edits = () if kind is None else (kind(torch.ones(2, 2, 1, dtype=torch.bool)),)
        batch = EditBatch((("an edit", "an edit"),) * 2, edits)
        control = StepControl(batch, 0, AttentionMaps((0, 0)), slice(0, 6), (1, 5))
        text = None if text is None else text[by_picture]
        return ControlledAttention(("up", 1, 0))(layer, states[by_picture], text, control=control)[by_branch]

    by_picture = torch.tensor([0, 2, 4, 1, 3, 5])
    by_branch = by_picture.argsort()
    with torch.no_grad():
        for kind, wanted in (
            (PhotoAttention, attended(query[photos], key[photos], value)),
            (MutualSelfAttention, attended(query, key[photos], value[photos])),
            (None, attended(query, key, value)),
        ):
            assert found(kind) == pytest.approx(wanted, abs=1e-5)
        text = torch.randn(6, 3, 8)
        assert torch.equal(found(MutualSelfAttention, text), found(None, text))


def test_a_network_that_lent_its_features_is_as_it_was(photo):
    """Guards the methods after these: hooks go, whatever happens inside, and are there for their layer alone."""
    unet = photo.model.denoiser.unet
    window = torch.ones(1, 2, 1, dtype=torch.bool)
    batch = EditBatch((("an edit", "an edit"),), (PhotoFeatures(window),))
    control = StepControl(batch, 0, AttentionMaps((0, 0)), slice(0, 3), (4, 4))
    lent, other = unet.up_blocks[1].resnets[0].conv2, unet.up_blocks[1].resnets[1].conv2

    def stopped():
        with edited_features(unet, control):
            found = lent(torch.randn(3, lent.in_channels, 4, 4).double())
            assert torch.equal(found, found[:1].expand_as(found))
            found = other(torch.randn(3, other.in_channels, 4, 4).double())
            assert not torch.equal(found, found[:1].expand_as(found))
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert not lent._forward_hooks and not other._forward_hooks


def test_layers_are_numbered_in_the_order_in_which_they_run(photo):
    """Guards the places by which edits choose layers: in blocks with attention alone, of each stage."""
    unet = photo.model.denoiser.unet
    control_attention(unet)
    places = {name: processor.place for name, processor in unet.attn_processors.items()}
    assert len(set(places.values())) * 2 == len(places)
    assert places["mid_block.attentions.0.transformer_blocks.0.attn1.processor"] == ("middle", 0, 0)
    assert places["up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor"] == ("up", 1, 0)
    assert places["up_blocks.1.attentions.1.transformer_blocks.0.attn1.processor"] == ("up", 1, 1)


class Noise:
    """A denoiser of random predictions, the same each time."""

    def __call__(self, latents, level, context, attention=None, unconditional=0):
        return torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)


def test_proximal_guidance_is_the_strongest_alone(photo):
    """Guards the threshold and inversion guidance: the share that is guided, and where the rest of the photo lands."""
    trajectory = photo.trajectory("ddim")
    found = Proximal(Noise(), trajectory)
    rows = torch.randn(8, *photo.latents.shape[1:], generator=torch.Generator().manual_seed(1))
    for step in (STEPS, 1):
        level = photo.schedule.level(step)
        plain, (null, text) = Noise()(rows, level, None), found(rows, level, None, unconditional=4).chunk(2)
        guidance, guided = plain[4:] - plain[:4], text != null
        if step == STEPS:
            size, left = (one.abs().unflatten(0, (2, 2)) for one in (guidance, text - null))
            for picture, some, rest in zip(size, guided.unflatten(0, (2, 2)), left, strict=True):
                assert some.float().mean() == pytest.approx(1 - QUANTILE, abs=0.02)
                # what is left has become smaller by the most of what is not
                less = (picture - rest)[some]
                assert less == pytest.approx(less.mean().expand_as(less), abs=1e-5)
                assert picture[~some].max() <= less.mean() + 1e-5
            assert ((text - null)[guided] * guidance[guided] > 0).all()
            assert torch.equal(null, plain[:4])
        else:
            photos = trajectory.latents[0].repeat_interleave(2, 0)
            landed = ddim_step(rows[:4], guide(null, text, 7.5), photo.schedule, step)
            back = (landed - photos).abs() < 1e-4
            assert bool(back.any()) and not bool((back & guided).any())


def test_blended_guidance_is_for_the_changed_words(photo):
    """Guards AIDI's guidance: w is 1 outside of the region that local blend finds, and everywhere without its words."""
    batch = batch_edits([[plan] for plan in photo.plans])
    looks = torch.zeros(2, 2, 8, 8, photo.plans[0].source.length)
    looks[:, :, 2, 3] = 1
    maps = AttentionMaps((8, 8), looks, 1)
    control = StepControl(batch, 0, maps, slice(4, 8), (8, 8))
    rows = torch.randn(8, 4, 8, 8)
    plain = Noise()(rows, None, None)
    null, text = Blended(Noise())(rows, None, None, control, 4).chunk(2)
    inside = blend_mask(maps.mean()[0], photo.plans[0], (8, 8))
    assert torch.equal(text, plain[4:]) and 0 < inside.sum() < inside.numel()
    assert torch.equal(null[1] == text[1], (~inside).expand(4, 8, 8))
    assert torch.equal(null[[0, 2, 3]], plain[:4][[0, 2, 3]])


def test_random_steps_are_those_of_diffusers(photo):
    """Guards the paths with noise, against diffusers' own scheduler at η = 1."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(STEPS)
    latents, epsilon, noise = torch.randn(3, 1, 4, 4, 4)
    for step in range(2, STEPS + 1):
        mean, deviation = mean_and_deviation(latents, epsilon, photo.schedule, step)
        timestep = int(photo.schedule.timesteps[step - 1])
        wanted = scheduler.step(epsilon, timestep, latents, eta=1.0, variance_noise=noise).prev_sample
        assert mean + deviation * noise == pytest.approx(wanted, abs=1e-4)


def test_noise_maps_are_of_independent_levels(photo):
    """Guards edit-friendly inversion: each level's noise is its own, unit noise, so a map holds more than noise."""
    noisy, maps = noise_maps(photo, photo.source, 0.0)
    schedule = photo.schedule
    noises = [
        (noisy[i] - alpha**0.5 * photo.latents) / (1 - alpha) ** 0.5
        for i, alpha in enumerate(schedule.alphas_cumprod[1:])
    ]
    together = torch.stack(noises).flatten(1)
    assert together.std(1) == pytest.approx(torch.ones(STEPS), abs=0.3)
    assert torch.corrcoef(together).fill_diagonal_(0).abs().max() < 0.4
    assert maps.square().mean() > 1.1


def test_a_concept_acts_where_its_own_words_are(photo):
    """Guards LEDITS++: swapped words are both captions' own, added ones the edit's alone, and without any nothing is
    guided."""
    edits, sources = own_tokens(photo)

    def words(plan_prompt, row):
        return {plan_prompt.words[plan_prompt.word_of_token[i]] for i in row.nonzero().flatten()}

    swap, added = photo.plans
    assert words(swap.prompt, edits[0]) == words(swap.source, sources[0]) == {"red", "blue"}
    assert words(added.prompt, edits[1]) == {"and", "a", "bus"} and not sources[1].any()
    asked, attention = torch.randn(2, 4, 8, 8), torch.rand(2, 4, 4, photo.plans[0].source.length)
    inside = implicit_mask(asked, attention, sources, (8, 8))
    assert inside[0].any() and not inside[1].any() and inside[0, 0].mean() <= 0.25
    strength = asked.abs().sum(1)
    assert strength[0][inside[0, 0] > 0].min() >= strength[0].quantile(0.75)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_gives_the_pictures_of_each_alone(photo, name):
    """Guards batches: the same picture, whoever is edited beside it."""
    together, alone = METHODS[name](fresh(photo), 2.5), METHODS[name](part_of(photo, 1), 2.5)
    assert alone[0] == pytest.approx(together[1], abs=1e-6)


@pytest.fixture(scope="module")
def worked_on(photo):
    """The same pictures after some methods."""
    some = fresh(photo)
    for name in ("fast", "null-text + prompt", "MasaCtrl", "edit-friendly", "LEDITS++", "AIDI", "SPDInv"):
        METHODS[name](some, 2.5)
    return some


@pytest.mark.parametrize("name", METHODS)
def test_a_method_costs_the_same_whatever_was_made_before(photo, worked_on, name):
    """Guards the price of methods that share an inversion, and that their pictures do not depend on who was first."""
    alone = fresh(photo)
    first, second = (one.cost_of(lambda one=one: METHODS[name](one, 2.5)) for one in (alone, worked_on))
    assert first[1] == second[1] and (first[1][0] > 0) == (name != "unchanged")
    assert torch.equal(first[0], second[0])


def price(photo, name, guidance):
    """Samples of an edit by itself, for each picture and step; gradients must be none."""
    one = fresh(photo)
    (forwards, backwards) = one.cost_of(lambda: METHODS[name](one, guidance))[1]
    assert not backwards
    return forwards / (len(photo.tasks) * STEPS)


def test_a_method_costs_what_its_pictures_need(photo):
    """Guards the prices that are compared: no prediction that is thrown away counts."""
    kept = 4 / STEPS  # edit-friendly inversion skips the noisiest of five steps
    for name, at_one, guided in (
        ("DDIM + prompt", 2, 3), ("virtual inversion", 2, 3), ("edit-friendly", 2 * kept, 3 * kept),
    ):  # fmt: skip
        assert price(photo, name, 1.0) == pytest.approx(at_one) and price(photo, name, 7.5) == pytest.approx(guided)
    assert price(photo, "null-text + prompt", 1.0) == 2
    assert price(photo, "negative-prompt", 7.5) == price(photo, "DDIM + P2P", 7.5)
    assert price(photo, "negative-prompt", 1.0) == price(photo, "paper", 1.0) == price(photo, "DDIM + P2P", 1.0)
