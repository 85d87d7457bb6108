"""The clay world: solids against independent geometry, toys that can be seen, scenes, captions and cached stages."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from nullinv_core.demo.captions import Wording, caption, read_caption, reading_of, sample_wording
from nullinv_core.demo.geometry import FINE, SIZE, Buffers, Placed, View, geometry, lit, march, rays
from nullinv_core.demo.looks import COLOURS, MATERIALS, STYLES, Look, compose
from nullinv_core.demo.objects import ANIMALS, LIDDED, LIERS, OBJECTS, ROLES, Form, Part, distance, span
from nullinv_core.demo.places import PLACES, ground, noise
from nullinv_core.demo.scenes import all_forms, belongs, buffers_of, is_held_out, render, sample_scene
from nullinv_core.demo.shapes import ball, block, disc, ellipsoid, ring, rod, slab, smooth_union, turned_on_a_wheel
from nullinv_core.demo.training import dataset
from nullinv_core.demo.training.dataset import example, mirrored, read_shard, render_shard, stage, toy_masks
from nullinv_core.photo.images import psnr

POINTS = torch.rand(3, 4_000, generator=torch.Generator().manual_seed(0)) * 2 - 1


def surface_distance(samples: torch.Tensor) -> torch.Tensor:
    """Distance of POINTS to the nearest of many samples of a surface (3, n)."""
    return torch.cdist(POINTS.T[None], samples.T[None])[0].amin(1)


@pytest.mark.parametrize(
    ("solid", "inside"),
    [
        (ball((0.1, 0.2, -0.1), 0.5), lambda x, y, z: (x - 0.1) ** 2 + (y - 0.2) ** 2 + (z + 0.1) ** 2 < 0.25),
        (block((0, 0.1, 0), (0.5, 0.3, 0.4), 0.0),
         lambda x, y, z: (abs(x) < 0.5) & (abs(y - 0.1) < 0.3) & (abs(z) < 0.4)),
        (disc((0, 0, 0.1), 0.6, 0.3, 0.0, 2), lambda x, y, z: (x**2 + y**2 < 0.36) & (abs(z - 0.1) < 0.3)),
        (ring((0, 0, 0), 0.5, 0.2, 0), lambda x, y, z: ((y**2 + z**2) ** 0.5 - 0.5) ** 2 + x**2 < 0.04),
        (ellipsoid((0, 0, 0), (0.8, 0.4, 0.5)), lambda x, y, z: (x / 0.8) ** 2 + (y / 0.4) ** 2 + (z / 0.5) ** 2 < 1),
        (turned_on_a_wheel([(-0.1, -0.5), (0.6, -0.5), (0.2, 0.5), (-0.1, 0.5)]),
         lambda x, y, z: (abs(y) < 0.5) & ((x**2 + z**2) ** 0.5 < 0.4 - 0.4 * y)),
        (rod((-0.5, 0, 0), (0.5, 0, 0), 0.3),
         lambda x, y, z: (torch.clamp(abs(x) - 0.5, min=0) ** 2 + y**2 + z**2 < 0.09)),
    ],
)  # fmt: skip
def test_solids_hold_what_their_formula_holds(solid, inside):
    """Guards the sign of every solid against the textbook inequality of its body."""
    gaps, wanted = solid(POINTS), inside(*POINTS)
    clear = gaps.abs() > 1e-4
    assert torch.equal((gaps < 0)[clear], wanted[clear]) and wanted.any() and not wanted.all()


def test_distances_are_true():
    """Guards the length of a distance, not only its sign: by brute force over samples of the surface."""
    axis = torch.linspace(-1, 1, 90)
    u, v = torch.meshgrid(axis, axis, indexing="ij")
    one = torch.ones_like(u)
    faces = [torch.stack(c) for s in (-1, 1) for c in ((u, v, s * one), (u, s * one, v), (s * one, u, v))]
    surface = torch.cat([f.flatten(1) for f in faces], 1) * torch.tensor([[0.5], [0.3], [0.4]])
    assert torch.allclose(block((0, 0, 0), (0.5, 0.3, 0.4), 0.0)(POINTS).abs(), surface_distance(surface), atol=0.012)


def test_a_slab_has_the_outline_of_its_polygon():
    """Guards polygons, reflex corners included, against Pillow's filling of them."""
    corners = [(-0.7, -0.6), (0.6, -0.7), (0.1, 0.0), (0.7, 0.6), (-0.5, 0.5), (-0.2, 0.0)]
    canvas = Image.new("1", (400, 400))
    ImageDraw.Draw(canvas).polygon([((x + 1) * 200, (1 - y) * 200) for x, y in corners], fill=1)
    y, x = torch.meshgrid(1 - (torch.arange(400) + 0.5) / 200, (torch.arange(400) + 0.5) / 200 - 1, indexing="ij")
    gaps = slab(corners, (-0.1, 0.1))(torch.stack([x.flatten(), y.flatten(), torch.zeros(160_000)])).view(400, 400)
    clear = gaps.abs() > 0.01
    assert torch.equal((gaps < 0)[clear], torch.from_numpy(np.array(canvas))[clear])


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.01, 0.3))
def test_a_fillet_only_adds_and_only_near_both(first, second, blend):
    """Guards the smooth union: never above the smaller distance, and equal to it where one is ``blend`` nearer."""
    a, b = torch.tensor(first), torch.tensor(second)
    blended = float(smooth_union(a, b, blend))
    assert min(first, second) - blend / 4 - 1e-6 <= blended <= min(first, second) + 1e-6
    if abs(first - second) >= blend:
        assert blended == pytest.approx(min(first, second), abs=1e-6)
    assert blended == pytest.approx(float(smooth_union(b, a, blend)), abs=1e-6)


@pytest.mark.parametrize("form", all_forms(), ids=lambda f: f"{f.kind}{f.pose}{'-open' * f.open}")
def test_toys_can_be_marched(form):
    """Guards every toy: it stands on the ground, and rays stop where small even steps along them first enter it."""
    directions = rays(View(), 24)
    origin = torch.tensor(View().eye)[:, None].expand_as(directions)
    found = march(form, origin, directions)
    steps = torch.arange(2.8, 5.2, 0.01)
    samples = origin[..., None] + steps * directions[..., None]
    inside = distance(form, samples.flatten(1)).view(len(found), -1) < 0
    entered = inside.any(1)
    first = steps[inside.float().argmax(1)]
    agree = (found - first).abs() < 0.025
    assert int(entered.sum()) > 40 and float(agree[entered].float().mean()) > 0.97
    assert float(torch.isinf(found[~entered]).float().mean()) > 0.94
    lowest = samples.permute(1, 2, 0)[inside][:, 1].min()
    # a lying elephant rests its trunk, a little of it below the ground
    assert -0.09 < float(lowest) < 0.15


def test_a_ray_meets_a_ball_where_algebra_says(monkeypatch):
    """Guards marching and shadows on a toy that is one ball, by the quadratic equation."""
    part = Part(ball((0, 0.5, 0), 0.5), "main")
    monkeypatch.setitem(OBJECTS, "ball", lambda form: [part])
    form = Form("ball")
    directions = rays(View(), 64)
    origin = torch.tensor(View().eye)[:, None].expand_as(directions)
    found = march(form, origin, directions)
    to = origin - torch.tensor([0.0, 0.5, 0.0])[:, None]
    along = (to * directions).sum(0)
    room = along.square() - (to.square().sum(0) - 0.25)
    hit = room > 0.01
    assert torch.allclose(found[hit], (-along - room.clamp_min(0).sqrt())[hit], atol=0.01)
    assert torch.isinf(found[room < -0.01]).all() and hit.any()
    under = torch.tensor([[0.0, 2.0], [-0.5, -0.5], [0.0, 0.0]])
    up = torch.tensor([0.0, 1.0, 0.0])[:, None].expand(3, 2)
    assert lit(form, under, up).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("azimuth", "dark"), [(-70, "right"), (70, "left")])
def test_shadows_fall_away_from_the_light(azimuth, dark):
    """Guards the light's direction: the ground is darker on the side that it does not come from."""
    seen = geometry((Placed(Form("mushroom"), 0, 0, 1, 0),), View(azimuth=azimuth, elevation=45))
    light = torch.where(seen.label == 0, seen.light.float(), 255.0)
    left, right = light[128:, :128].mean(), light[128:, 128:].mean()
    assert (left < right - 5) == (dark == "left") and (right < left - 5) == (dark == "right")


@pytest.fixture(scope="module")
def seen():
    """Every toy as one of two beside each other would show it."""
    return {kind: geometry((Placed(Form(kind), 0, 0, 0.84, 0),), View()) for kind in OBJECTS}


def test_there_are_enough_toys_colours_and_places():
    """Guards the world's richness, and that every toy has parts in the colour that its caption names."""
    assert len(OBJECTS) >= 20 and len(COLOURS) == 12 and len(MATERIALS) == 4 and len(PLACES) == 8 and len(STYLES) == 4
    assert set(LIERS) <= set(ANIMALS) <= set(OBJECTS) and set(LIDDED) <= set(OBJECTS)


@pytest.mark.parametrize("kind", OBJECTS)
def test_toys_are_large_enough_to_read(seen, kind):
    """Guards what a picture of 128 pixels shows: a toy beside another is 30 pixels wide, a tenth in its colour."""
    label = seen[kind].label[::2, ::2]
    columns = torch.nonzero((label > 0).any(0))[:, 0]
    tinted = ((label > 0) & ((label.long() - 1) % 32 <= ROLES.index("light"))).sum()
    assert len(columns) >= 30 and float(tinted) >= 0.1 * float((label > 0).sum()) and int(tinted) > 250


@pytest.mark.parametrize("kind", ANIMALS)
def test_faces_have_eyes(seen, kind):
    """Guards faces: whites and pupils of two eyes, apart, at least 3 pixels each."""
    roles = (seen[kind].label[::2, ::2].long() - 1) % 32
    pupils = torch.nonzero((seen[kind].label[::2, ::2] > 0) & (roles == ROLES.index("black")))
    left, right = (pupils[pupils[:, 1] < 64], pupils[pupils[:, 1] >= 64])
    assert len(left) >= 8 and len(right) >= 8
    assert float(right[:, 1].float().mean() - left[:, 1].float().mean()) >= 8


def test_scenes_are_the_same_every_time():
    """Guards determinism: the same seed gives the same scene, buffers and bytes."""
    first, second = (sample_scene(5) for _ in range(2))
    assert first == second and first != sample_scene(6)
    assert render(first).tobytes() == render(second).tobytes()
    assert render(first).shape == (SIZE, SIZE, 3) and render(first).dtype == np.float32


def test_noise_repeats_at_the_border():
    """Guards tiles: a texture's last row leads on to its first."""
    field = noise(np.random.default_rng(0), 6)
    inner, seam = np.abs(np.diff(field, axis=0)).max(), np.abs(field[0] - field[-1]).max()
    assert seam <= inner * 1.01 and field.min() >= 0 and field.max() <= 1
    assert all(ground(name).texture.shape == (6, 257, 257) for name in PLACES)


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_splits_are_kept_apart(split):
    """Guards the evaluation: no training scene holds a held-out combination, every held-out scene does."""
    for seed in range(60):
        scene = sample_scene(seed, split)
        held = [is_held_out(t.kind, t.colour, scene.place) for t in scene.things]
        assert any(held) == (split == "held-out") and belongs(scene, split)


def test_one_of_eight_combinations_is_held_out():
    """Guards the size of the split, and that each toy, colour and place is both seen and held out."""
    all_three = [(k, c, p) for k in OBJECTS for c in COLOURS for p in PLACES]
    held = [combination for combination in all_three if is_held_out(*combination)]
    assert len(held) == len(all_three) / 8
    assert {k for k, _, _ in held} == set(OBJECTS) and {c for _, c, _ in held} == set(COLOURS)


@pytest.mark.parametrize("seed", range(40))
def test_toys_stay_in_the_picture_and_apart(seed):
    """Guards placing: spans do not overlap and lie within the picture's width, left to right."""
    scene = sample_scene(seed)
    ends = [-0.95]
    for thing in scene.things:
        left, right = span(thing.form, thing.yaw)
        assert thing.x + left * thing.scale >= ends[-1] - 0.02
        ends.append(thing.x + right * thing.scale)
    assert ends[-1] <= 0.95


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_captions_say_everything(seed, wording):
    """Guards captions: what one says is read back, however it is worded, also of the mirror image."""
    scene = sample_scene(seed)
    words = sample_wording(np.random.default_rng(wording))
    assert read_caption(caption(scene, words)) == reading_of(scene)
    assert mirrored(mirrored(reading_of(scene))) == reading_of(scene)


def test_captions_are_plain_english():
    """Guards the usual wording by examples."""
    scene = sample_scene(0, plain=True, count=2)
    cat = replace(scene.things[0], form=Form("cat"), colour="red")
    mug = replace(scene.things[1], form=Form("mug"), colour="orange", material="metal")
    scene = replace(scene, things=(cat, mug), place="wood")
    assert caption(scene) == "a photo of a red cat and an orange metal mug on a wooden table"
    assert (
        caption(scene, Wording(opening=1, material_first=True)) == "a red cat and a metal orange mug on a wooden table"
    )
    dressed = replace(cat, form=Form("cat", wears="hat"), facing="left")
    assert caption(replace(scene, things=(dressed,), style="pencil", place="snow")) == (
        "a pencil drawing of a red cat facing left and wearing a hat in snow"
    )
    night = replace(scene, things=(replace(cat, form=Form("pot", open=True)),), style="night")
    assert caption(night) == "a photo of an open red pot on a wooden table at night"


@pytest.mark.parametrize("text", ["a photo of a red cat", "a photo of nothing on grass"])
def test_captions_that_say_too_little_are_refused(text):
    """Guards reading: a caption without a place or a toy is an error, not an empty scene."""
    with pytest.raises(ValueError, match="is named"):
        read_caption(text)


def test_buffers_survive_stacking_and_looks_do_not_touch_them():
    """Guards the cache: buffers are read back as they were, and composing leaves them alone."""
    scene = sample_scene(3)
    buffers = buffers_of(scene)
    stacked = buffers.stacked()
    before = stacked.clone()
    again = Buffers.of(stacked)
    assert stacked.shape == (8, FINE, FINE) and stacked.dtype == torch.uint8
    for style in STYLES:
        look = replace(scene.look, style=style)
        assert torch.equal(compose(buffers, scene.view, look), compose(again, scene.view, look))
    assert torch.equal(before, stacked)


@pytest.mark.parametrize("style", STYLES)
def test_a_larger_picture_shows_the_same_scene(style):
    """Guards icon and banner: with twice the samples a side, a picture made small again is the small one; only a
    pencil's lines are as wide as before."""
    scene = replace(sample_scene(3), style=style)
    large = geometry(tuple(t.placed for t in scene.things), scene.view, side=2 * FINE)
    picture = compose(large, scene.view, scene.look)
    assert picture.shape == (2 * SIZE, 2 * SIZE, 3)
    small = picture.view(SIZE, 2, SIZE, 2, 3).mean((1, 3))
    assert psnr(small.numpy(), render(scene)) > (20 if style == "pencil" else 36)


@pytest.mark.parametrize("place", PLACES)
def test_colours_change_the_toy_alone(seen, place):
    """Guards composing: another colour leaves every pixel of the ground, another place every pixel's label."""
    buffers = seen["apple"]
    red, blue = (compose(buffers, View(), Look((c,), ("clay",), place)) for c in ("red", "blue"))
    toy = (buffers.label > 0).view(SIZE, 2, SIZE, 2).any(3).any(1)
    assert torch.equal(red[~toy], blue[~toy]) and float((red - blue)[toy].abs().mean()) > 0.1
    assert float(red.min()) >= 0 and float(red.max()) <= 1


def test_materials_and_styles_look_different(seen):
    """Guards materials and styles: each gives another picture of the same toy; two of the styles are grey."""
    pictures = [compose(seen["teapot"], View(), Look(("green",), (m,), "wood")) for m in MATERIALS]
    pictures += [compose(seen["teapot"], View(), Look(("green",), ("clay",), "wood", style=s)) for s in STYLES[1:]]
    for i, first in enumerate(pictures):
        assert all(float((first - other).abs().mean()) > 0.002 for other in pictures[:i])
    assert all(float((p[..., 0] - p[..., 2]).abs().max()) < 1e-6 for p in pictures[4:6])


def test_stages_are_cached_and_resumed(tmp_path, monkeypatch):
    """Guards the shards: read back as rendered, written once, and examples do not depend on when they are asked for."""
    monkeypatch.setattr(dataset, "SHARD", 2)
    render_shard(tmp_path, 0)
    (file,) = (tmp_path / "stages").iterdir()
    written = file.stat().st_mtime_ns
    render_shard(tmp_path, 0)
    assert file.stat().st_mtime_ns == written
    shard = read_shard(tmp_path, 0)
    things, view = stage(1)
    assert torch.equal(shard[1], geometry(tuple(t.placed for t in things), view).stacked())
    first = example(shard[1], 1, 7)
    assert torch.equal(first.image, example(shard[1], 1, 7).image) and first.image.shape == (3, SIZE, SIZE)
    assert first.caption != example(shard[1], 1, 8).caption and read_caption(first.caption) == first.reading
    assert len(first.reading.things) == int((first.masks.flatten(1).sum(1) > 0).sum())


def test_training_pictures_hold_nothing_held_out():
    """Guards the split where it counts: in what the model is trained on, mirrored or not."""
    things, view = stage(0)
    stacked = geometry(tuple(t.placed for t in things), view).stacked()
    for variation in range(12):
        reading = example(stacked, 0, variation).reading
        assert not any(is_held_out(t.kind, t.colour, reading.place) for t in reading.things)


def test_masks_cover_the_toys(seen):
    """Guards the hints: a toy's cells add up to its pixels."""
    label = seen["car"].label
    masks = toy_masks(label)
    assert masks.shape == (2, 16, 16) and not masks[1].any()
    assert math.isclose(float(masks[0].sum()) * 256, float((label > 0).sum()), rel_tol=1e-5)
