"""What the demo model and its judge are trained with."""

import contextlib
import copy
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from nullinv_core.backends.diffusers import DEMO_MODEL
from nullinv_core.demo import judge
from nullinv_core.demo.captions import caption, read_caption, reading_of, sample_wording
from nullinv_core.demo.judge import HEADS, Judge, classes, read, verdicts
from nullinv_core.demo.looks import COLOURS
from nullinv_core.demo.objects import OBJECTS, ROLES
from nullinv_core.demo.scenes import sample_scene
from nullinv_core.demo.training import autoencoder as train_autoencoder
from nullinv_core.demo.training import dataset, steps
from nullinv_core.demo.training import judge as train_judge
from nullinv_core.demo.training import text as train_text
from nullinv_core.demo.training import unet as train_unet
from nullinv_core.demo.training.dataset import JUDGED, example, make_pictures, pictures_path, read_pictures, read_shard
from nullinv_core.demo.training.muon import Muon, orthogonalize
from nullinv_core.demo.training.pool import Files, Pool
from nullinv_core.demo.training.state import finished_steps, load_module, load_state, save_state
from nullinv_core.demo.training.text import token_ids
from nullinv_core.families import FAMILIES
from nullinv_core.schedule import scaled_linear_alphas


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The world's tokenizer."""
    return train_text.tokenizer_of(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Both variations of three stages, and the folder that they are kept in."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "SHARD", 3)
        dataset._shard_name.cache_clear()
        for variation in (0, dataset.JUDGED):
            make_pictures(work, 0, variation)
        paths = [pictures_path(work, 0, variation) for variation in (0, dataset.JUDGED)]
        expected = [example(b, i, v) for v in (0, dataset.JUDGED) for i, b in enumerate(read_shard(work, 0))]
    dataset._shard_name.cache_clear()
    return read_pictures(paths), expected


def test_pictures_are_kept_as_composed(pictures):
    """Guards the files of composed pictures: images to a byte, captions, kinds, colours and masks in their order."""
    kept, expected = pictures
    assert kept.captions == [e.caption for e in expected]
    for row, e in enumerate(expected):
        assert torch.equal(kept.images[row], (e.image * 255 + 0.5).to(torch.uint8))
        names = [(t.kind, t.colour) for t in e.reading.things]
        found = [(list(OBJECTS)[k], list(COLOURS)[c]) for k, c in kept.names[row].tolist() if k >= 0]
        assert found == names and torch.allclose(kept.masks[row] / 255, e.masks, atol=1 / 255)


def test_faces_count_most_and_toys_more_than_the_ground(pictures):
    """Guards the autoencoder's weights: three levels, as the label says."""
    kept, _ = pictures
    weights = train_autoencoder.pixel_weights(kept.label)
    ground, toy, face = 1.0, 1.0 + train_autoencoder.TOY_WEIGHT, 1.0
    face += train_autoencoder.TOY_WEIGHT + train_autoencoder.FACE_WEIGHT
    assert weights.shape == (len(kept.label), 1, 128, 128)
    assert set(weights.unique().tolist()) == {ground, toy, face}
    assert torch.equal(weights[:, 0] > ground, kept.label > 0)
    eyes = torch.isin((kept.label.long() - 1) % 32, torch.tensor([ROLES.index("white"), ROLES.index("black")]))
    assert torch.equal(weights[:, 0] == face, eyes & (kept.label > 0))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(1, 5), max_size=5))
def test_a_pool_gives_what_was_added_as_far_as_there_is_room(capacity, parts):
    """Guards the data of a training: rows in order, none beyond the room, draws from the filled ones alone."""
    pool = Pool("cpu", capacity, number=((2,), torch.int64))
    held, rows = pool.tensors["number"], torch.arange(1, 2 * sum(parts) + 1).view(-1, 2)
    for part in rows.split(parts) if parts else ():
        pool.add({"number": part})
    filled = min(capacity, sum(parts))
    assert pool.filled == filled and torch.equal(held[:filled], rows[:filled]) and not held[filled:].any()
    drawn = pool.draw(200)
    assert set(drawn.tolist()) <= set(range(max(1, filled)))
    assert len(set(drawn.tolist())) > max(1, filled) // 2


def test_files_are_handed_out_once_and_by_their_variations(tmp_path):
    """Guards what a training takes in while pictures are rendered: each file once, the judge's to the judge alone."""
    (tmp_path / "pictures").mkdir()

    def write(*numbers):
        paths = [pictures_path(tmp_path, index, variation) for variation, index in numbers]
        for path in paths:
            path.touch()
        return paths

    first, second, judged, third = write((0, 0), (1, 0), (JUDGED, 0), (0, 1))
    # of other looks, of other shapes, not finished
    for old in (f"00000000{first.name[8:]}", f"{first.name[:16]}-00000000.safetensors", f"{first.stem}-77.partial"):
        assert old != first.name
        first.with_name(old).touch()
    model, judge = Files(tmp_path), Files(tmp_path, range(JUDGED, 2 * JUDGED))
    assert model.fresh(2) == [first, second]
    assert model.fresh() == [third] and model.fresh() == []
    assert judge.fresh() == [judged]
    late = write((2, 1))
    assert model.wait(1) == late


def test_a_training_without_pictures_says_what_draws_them(tmp_path, monkeypatch, capsys):
    """Guards a part that is trained by itself, which waited for ever and said nothing."""
    (tmp_path / "pictures").mkdir()
    there = pictures_path(tmp_path, 0, 0)
    monkeypatch.setattr(time, "sleep", lambda seconds: there.touch())
    assert Files(tmp_path).wait(1) == [there]
    (said,) = capsys.readouterr().out.splitlines()
    assert f"python -m {dataset.__name__} --work {tmp_path}" in said
    assert Files(tmp_path).wait(1) == [there] and not capsys.readouterr().out


def test_a_shard_is_named_by_its_shapes(monkeypatch, tmp_path):
    """Guards training folders that were begun before a toy changed: its old geometry is not taken for the new."""

    def forget():
        dataset.shapes_digest.cache_clear()
        dataset._shard_name.cache_clear()

    before, changed = dataset._shard_name(0), tmp_path / "objects.py"
    changed.write_bytes(dataset.SHAPING[0].read_bytes().replace(b"scarf", b"shawl", 1))
    monkeypatch.setattr(dataset, "SHAPING", (changed, *dataset.SHAPING[1:]))
    forget()
    after = dataset._shard_name(0)
    monkeypatch.undo()
    forget()
    assert before != after and before[:5] == after[:5] == "0000-" and dataset._shard_name(0) == before


def test_a_training_without_an_end_has_one_for_its_first_cycle():
    """Guards the judge's training where no minutes are given: its first cycle goes by its steps."""
    assert train_judge.first_cycle(math.inf) == math.inf
    clock = steps.Clock(1000, 1.0, train_judge.first_cycle(math.inf), started=time.time() - 3600)
    assert clock.progress(10) == 0.01
    now = time.time()
    assert now + 800 < train_judge.first_cycle(now + 1000) < now + 1000
    with pytest.raises(ValueError, match="not NaN"):
        steps.Clock(1000, 1.0, math.nan)


def _steps(path, total=12, stop_at=None, deadline=float("inf")):
    """Train a small matrix; return it, and the learning rates that were used."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 3)
    optimizer = Muon([module.weight], [module.bias])
    rates = []

    def before(step, progress):
        if step == stop_at:
            raise KeyboardInterrupt
        rates.append(optimizer.param_groups[0]["lr"])

    def loss(_):
        return (module(torch.randn(4, 3)) - 1).square().mean()

    with contextlib.suppress(KeyboardInterrupt):
        steps.run(path, {"m": module}, optimizer, loss, steps.Clock(total, 1e-2, deadline, save_seconds=0), before)
    return module, rates


def test_an_interrupted_training_ends_as_an_unbroken_one(tmp_path):
    """Guards resuming: the same bytes, whatever step a run was stopped at."""
    whole, rates = _steps(tmp_path / "whole.safetensors")
    _steps(tmp_path / "broken.safetensors", stop_at=5)
    assert finished_steps(tmp_path / "broken.safetensors") == 5
    resumed, rest = _steps(tmp_path / "broken.safetensors")
    assert torch.equal(whole.weight, resumed.weight) and torch.equal(whole.bias, resumed.bias)
    assert (len(rates), len(rest)) == (12, 7) and finished_steps(tmp_path / "broken.safetensors") == 12


def test_a_training_ends_by_its_deadline(tmp_path):
    """Guards the clock: a training with a deadline is finished then, and counts as such."""
    started = time.time()
    _, rates = _steps(tmp_path / "x.safetensors", total=10**9, deadline=started + 0.5)
    assert 0.4 < time.time() - started < 5 and len(rates) > 3
    assert finished_steps(tmp_path / "x.safetensors") == 10**9


@given(st.floats(0, 1), st.integers(0, 1000))
def test_the_learning_rate_rises_and_falls(progress, step):
    """Guards the schedule: between 0 and its peak, which it reaches after the warm-up, 0 at the end."""
    assert 0 <= steps.cosine(progress, step, 2e-3) <= 2e-3
    assert steps.cosine(1.0, step, 2e-3) == pytest.approx(0, abs=1e-12)
    assert steps.cosine(0.0, step + 99, 2e-3) == 2e-3


def test_previews_show_the_colours_of_latents_that_fit():
    """Guards the preview's loss: nothing for latents whose preview is the picture, the square of an offset else."""
    factors = torch.tensor(FAMILIES["v1"].preview)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    cells = torch.nn.functional.avg_pool2d(images, 8)
    latents = torch.einsum("brhw,rc->bchw", cells, torch.linalg.pinv(factors))
    assert float(train_autoencoder.preview_loss(latents, images)) < 1e-10
    assert float(train_autoencoder.preview_loss(latents, images + 0.5)) == pytest.approx(0.25, abs=1e-5)
    assert float(train_autoencoder.edge_loss(images + 0.3, images)) < 1e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_tokens_are_asked_for_what_was_said(tokenizer, seed):
    """Guards the text encoder's targets: each toy's attributes stand at the last token of its name, in order."""
    scene = sample_scene(seed)
    reading, text = reading_of(scene), caption(scene, sample_wording(np.random.default_rng(seed)))
    ids = token_ids(tokenizer, [text])
    wanted = train_text.targets(tokenizer, [(reading, text)], ids)
    names = [t for t in wanted["lid"][0].tolist() if t >= 0]
    assert names == [int(t.open) for t in reading.things]
    place = [train_text.TASKS["place"][t] for t in wanted["place"][0].tolist() if t >= 0]
    assert place == [reading.place] * 2
    end = ids[0].tolist().index(tokenizer.eos_token_id)
    assert train_text.TASKS["first"][int(wanted["first"][0, end])] == reading.things[0].kind
    wears = [t.wears for t in reading.things if t.wears]
    assert [train_text.TASKS["wears"][t] for t in wanted["wears"][0].tolist() if t >= 0] == wears


def test_some_words_are_split_and_none_is_unknown(tokenizer):
    """Guards the vocabulary: words of several tokens exist, as in the real one, and any text can be encoded."""
    lengths = [len(tokenizer.tokenize(word)) for word in OBJECTS]
    assert max(lengths) > 1 and sum(length == 1 for length in lengths) > 15
    assert tokenizer.decode(tokenizer("a würfel").input_ids, skip_special_tokens=True).strip() == "a würfel"


def test_the_model_has_this_tokenizer(tokenizer):
    """Guards other tools, which read tokenizer.json alone: the same tokens as from vocabulary and merges."""
    shipped = PreTrainedTokenizerFast(tokenizer_file=str(DEMO_MODEL / "tokenizer" / "tokenizer.json"))
    text = "a photo of a turquoise caterpillar and an open gift on a checkered cloth at night"
    assert shipped(text).input_ids == tokenizer(text).input_ids


def test_hints_show_kinds_and_colours_where_toys_are():
    """Guards the training target: a toy's mask stands under its kind and its colour, and nowhere else."""
    masks = torch.zeros(1, 2, 16, 16, dtype=torch.uint8)
    masks[0, 0, 4:8, 2:6], masks[0, 1, 4:8, 10:14] = 255, 128
    names = torch.tensor([[[3, 1], [7, 5]]])
    found = train_unet.hints(masks, names)[0]
    used = torch.nonzero(found.flatten(1).any(1))[:, 0].tolist()
    assert used == [3, 7, train_unet.KINDS + 1, train_unet.KINDS + 5] and found.shape[0] == train_unet.HINTS
    assert torch.equal(found[3], found[train_unet.KINDS + 1]) and torch.equal(found[3] * 255, masks[0, 0].float())
    alone = train_unet.hints(masks * torch.tensor([1, 0])[:, None, None], torch.tensor([[[3, 1], [-1, -1]]]))[0]
    assert not alone[0].any() and torch.equal(alone[3], found[3])


def test_the_finished_unet_has_four_channels():
    """Guards the shipped UNet: the same noise as with the hints."""
    torch.manual_seed(0)
    trained = train_unet.new_unet(train_unet.HINTS).eval()
    plain = train_unet.without_hints(trained)
    inputs = (torch.randn(1, 4, 16, 16), torch.tensor([300]), torch.randn(1, 7, 128))
    with torch.no_grad():
        assert torch.allclose(plain(*inputs).sample, trained(*inputs).sample[:, :4], atol=1e-5)


class _Oracle(Judge):
    """A judge whose logits are those of given readings."""

    def __init__(self, readings):
        super().__init__((4, 4, 4, 4))
        self.answers = [classes(r) for r in readings]

    def forward(self, pictures):
        return {
            name: torch.nn.functional.one_hot(torch.tensor([a[name] for a in self.answers]), len(values)).float()
            for name, values in HEADS.items()
        }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_judge_reads_what_its_classes_say(seed, other):
    """Guards classes against reading: a perfect judge gives a scene's reading and says what is wrong with another."""
    asked, else_asked = (reading_of(sample_scene(s, plain=True)) for s in (seed, other))
    oracle = _Oracle([asked])
    picture = torch.zeros(1, 128, 128, 3)
    assert read(oracle, picture) == [asked]
    assert verdicts(oracle, picture, [asked])[0].wrong == ()
    same = [(t.kind, t.colour) for t in asked.things] == [(t.kind, t.colour) for t in else_asked.things]
    assert (verdicts(oracle, picture, [else_asked])[0].wrong == ()) == (same and asked.place == else_asked.place)


def test_the_judge_learns(pictures):
    """Guards its training: a few steps on six pictures teach it to read them; what it cannot see it is not asked."""
    kept, _ = pictures
    torch.manual_seed(0)
    model = Judge((8, 16, 24, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    readings = [read_caption(text) for text in kept.captions]
    images = kept.images.float() / 255
    wanted = torch.tensor([[classes(r)[name] for name in HEADS] for r in readings])
    losses = []
    for _ in range(40):
        loss = judge.loss_of(model(images), wanted)
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    drawing = reading_of(sample_scene(0, plain=True))
    drawing = type(drawing)(drawing.things, drawing.place, "pencil")
    assert classes(drawing)["colour-0"] == -100 and classes(drawing)["kind-0"] >= 0


def test_worse_pictures_are_of_the_same_scene():
    """Guards the judge's data: moved, blurred and noisy pictures keep their shape, range and mean."""
    images = torch.rand(4, 3, 16, 16).repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.manual_seed(0)
    worse = train_judge.worsened(images)
    assert worse.shape == images.shape and float(worse.min()) >= 0 and float(worse.max()) <= 1
    assert torch.allclose(worse.mean((2, 3)), images.mean((2, 3)), atol=0.08)
    torch.manual_seed(0)
    assert torch.equal(worse, train_judge.worsened(images))


def test_what_a_judge_cannot_see_does_not_teach_it():
    """Guards the judge's loss: a class that is not asked (-100) changes nothing, nor does a head nobody is asked of."""
    logits = {name: torch.randn(3, len(values)) for name, values in HEADS.items()}
    wanted = torch.zeros(3, len(HEADS), dtype=torch.int64)
    expected = sum(torch.nn.functional.cross_entropy(v, wanted[:, 0]) for v in logits.values())
    assert float(judge.loss_of(logits, wanted)) == pytest.approx(float(expected), rel=1e-5)
    wanted[1:, 0], wanted[:, 1] = -100, -100
    names = list(HEADS)
    expected -= torch.nn.functional.cross_entropy(logits[names[1]], torch.zeros(3, dtype=torch.int64))
    expected -= torch.nn.functional.cross_entropy(logits[names[0]], torch.zeros(3, dtype=torch.int64))
    expected += torch.nn.functional.cross_entropy(logits[names[0]][:1], torch.zeros(1, dtype=torch.int64))
    assert float(judge.loss_of(logits, wanted)) == pytest.approx(float(expected), rel=1e-5)


def test_the_second_cycle_weighs_kinds_and_averages():
    """Guards the judge's second cycle: a kind that is misread costs three times as much, another mistake does not; and
    its averaged weights, statistics of the layers too, lie between what they were and the newest."""
    wanted = torch.zeros(2, len(HEADS), dtype=torch.int64)
    even = {name: torch.zeros(2, len(values)) for name, values in HEADS.items()}
    for name in HEADS:
        bad = even | {name: even[name] - 5 * (torch.arange(len(HEADS[name])) == 0)}
        more = [float(judge.loss_of(bad, wanted, k) - judge.loss_of(even, wanted, k)) for k in (1.0, 3.0)]
        assert more[1] == pytest.approx((3 if name.startswith("kind") else 1) * more[0], rel=1e-3)
    old, new = Judge(), Judge()
    new.features[0][1].running_mean += 4
    expected = {
        key: value.lerp(new.state_dict()[key], 0.25)
        for key, value in old.state_dict().items()
        if value.is_floating_point()
    }
    train_judge._average(old, new, 0.75)
    found = old.state_dict()
    assert all(torch.allclose(found[key], value) for key, value in expected.items())
    assert float(found["features.0.1.running_mean"][0]) == pytest.approx(1.0)


def test_every_timestep_is_learned_from():
    """Guards the UNet's loss: it is that of the noise at timesteps from 0 to 999, the noisier half more often."""
    seen = []

    def unet(noisy, timesteps, contexts):
        seen.append(timesteps)
        return SimpleNamespace(sample=torch.zeros(len(noisy), 4 + train_unet.HINTS, 16, 16))

    torch.manual_seed(0)
    alphas = torch.tensor(scaled_linear_alphas(), dtype=torch.float32)
    clean, layout = torch.zeros(200, 4, 16, 16), torch.zeros(200, train_unet.HINTS, 16, 16)
    for _ in range(20):
        train_unet.loss_of(unet, clean, torch.zeros(200, 1), layout, alphas, torch.ones(()))
    timesteps = torch.cat(seen)
    assert timesteps.min() >= 0 and timesteps.max() == 999 and timesteps.min() < 3
    assert 0.5 < float((timesteps >= 500).float().mean()) < 0.65
    # any part of the rows sees them all, as rows of one toy and of two are apart
    assert all(float(part[:50].float().std()) > 250 for part in seen)


@pytest.mark.parametrize("shape", [(5, 8, 24), (2, 24, 8), (1, 16, 16)])
def test_orthogonalizing_keeps_directions_and_levels_their_strength(shape):
    """Guards Muon's step: singular vectors stay, singular values come near 1, however they were spread."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    values = torch.logspace(0, -1.5, u.shape[-1])
    levelled = orthogonalize(u @ torch.diag(values) @ v)
    inner = u.mT @ levelled @ v.mT
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    assert float(diagonal.min()) > 0.5 and float(diagonal.max()) < 1.3
    assert float((inner - torch.diag_embed(diagonal)).abs().max()) < 0.05


def test_muon_steps_matrices_and_adamw_the_rest():
    """Guards the split: a matrix moves by the rate times AdamW's usual size in every direction, a bias as in AdamW."""
    torch.manual_seed(0)
    matrix, bias = torch.nn.Parameter(torch.zeros(8, 16)), torch.nn.Parameter(torch.zeros(4))
    reference = torch.nn.Parameter(torch.zeros(4))
    ours = Muon([matrix], [bias])
    adamw = torch.optim.AdamW([reference], betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    for optimizer in (ours, adamw):
        for group in optimizer.param_groups:
            group["lr"] = 0.1
    matrix.grad = torch.randn(8, 16)
    bias.grad = reference.grad = torch.randn(4)
    ours.step()
    adamw.step()
    assert torch.equal(bias, reference)
    values = torch.linalg.svdvals(matrix.detach()) / (0.1 * 0.2 * 16**0.5)
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3
    assert float((matrix.detach() * matrix.grad).sum()) < 0


def test_muon_resumes_where_it_was():
    """Guards resuming: an optimizer restored from its state takes the same next step."""

    def step(parameter, optimizer, seed):
        parameter.grad = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    first = torch.nn.Parameter(torch.ones(6, 6))
    optimizer = Muon([first], [])
    step(first, optimizer, 1)
    second = torch.nn.Parameter(first.detach().clone())
    restored = Muon([second], [])
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(first, optimizer, 2)
    step(second, restored, 2)
    assert torch.equal(first, second)


def test_a_finished_stage_is_read_back_alone(tmp_path):
    """Guards resuming between stages: how far a file got, and one module of it, without the optimizer's state."""
    path = tmp_path / "stage.safetensors"
    assert finished_steps(path) == 0
    trained, average = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(trained.parameters())
    trained(torch.ones(3)).sum().backward()
    optimizer.step()
    save_state(path, 7, {"unet": trained, "average": average}, optimizer)
    read = torch.nn.Linear(3, 2)
    load_module(path, "average", read)
    assert finished_steps(path) == 7 and torch.equal(read.weight, average.weight)
    assert load_state(path, {"unet": read}, optimizer) == 7 and torch.equal(read.weight, trained.weight)
