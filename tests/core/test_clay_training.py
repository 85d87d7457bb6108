"""What the clay world's model and judge are trained with."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullinv_core.demo.clay import dataset, judge, train_autoencoder, train_judge, train_text, train_unet
from nullinv_core.demo.clay.captions import caption, read_caption, reading_of, sample_wording
from nullinv_core.demo.clay.dataset import Pictures, example, make_pictures, pictures_path, read_pictures, read_shard
from nullinv_core.demo.clay.judge import HEADS, Judge, classes, read, verdicts
from nullinv_core.demo.clay.looks import COLOURS
from nullinv_core.demo.clay.objects import OBJECTS
from nullinv_core.demo.clay.scenes import sample_scene
from nullinv_core.demo.train_text import token_ids


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


def test_crops_are_of_the_pictures_and_show_toys(pictures):
    """Guards the autoencoder's data: the same for a seed, each crop cut from a picture, toys in nearly all."""
    kept, _ = pictures
    first = train_autoencoder.crops(kept, (0, 1), 24)
    assert torch.equal(first, train_autoencoder.crops(kept, (0, 1), 24)) and first.shape == (24, 3, 64, 64)
    assert not torch.equal(first, train_autoencoder.crops(kept, (0, 2), 24))
    marked = Pictures((kept.label[:, None].expand(-1, 3, -1, -1) > 0) * 255, kept.label, kept.masks, kept.names, [])
    shown = (train_autoencoder.crops(marked, (0, 1), 24) > 0).flatten(1).any(1)
    assert int(shown.sum()) >= 20


def test_previews_show_the_colours_of_latents_that_fit():
    """Guards the preview's loss: nothing for latents whose preview is the picture, the square of an offset else."""
    factors = torch.tensor(train_autoencoder.PREVIEW_FACTORS)
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
    losses = []
    for _ in range(40):
        loss = judge.loss_of(model(images), readings)
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
    worse = train_judge.worsened(images, np.random.default_rng(0))
    assert worse.shape == images.shape and float(worse.min()) >= 0 and float(worse.max()) <= 1
    assert torch.allclose(worse.mean((2, 3)), images.mean((2, 3)), atol=0.08)
    assert torch.equal(worse, train_judge.worsened(images, np.random.default_rng(0)))
