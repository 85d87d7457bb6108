"""A batch from its list to its manifest: stopped, killed, with failures; by one process and by Ray."""

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from nullinv_core import EditSettings, load_inversion, load_model
from nullinv_core.batch import compute, journal, run
from nullinv_core.batch.compute import About, Options, Outcome, Worker
from nullinv_core.batch.jobs import Job, Jobs
from nullinv_core.batch.plan import Group
from nullinv_core.errors import InputError, NonFiniteError
from nullinv_core.photo.images import load_image, read_picture, save_image
from nullinv_core.photo.picture_file import ORIENTATION
from nullinv_core.pipeline import apply, apply_each, prepare

OPTIONS = Options("fake", steps=2, preset="direct", guidance=2.0)


class Fake:
    """Workers whose results are made of the group alone, and that may be stopped."""

    def __init__(self, options, naps=0.0, bad=()):
        self.naps, self.bad, self.computed = naps, bad, []

    def about(self):
        return About("print", "float32", "cpu", 8, 8)

    def best_batch(self, size, edits, most):
        return 3

    def compute(self, tasks, load):
        for number, group in tasks:
            time.sleep(self.naps)
            self.computed.append(number)
            pictures = load(group)
            beside = ",".join(job.name for job in group.jobs)
            yield (number, group), [
                Outcome(sentence=f"{job.name} is bad") if job.name in self.bad
                else Outcome({name: f"{name} {job.prompt} {beside} {picture!r}".encode()
                              for name in compute.files_of(job, False)}, seconds=random.random())
                for job, picture in zip(group.jobs, pictures, strict=True)
            ]  # fmt: skip

    def close(self):
        pass


def jobs_in(folder, count, edits=1):
    """So many tiny pictures, of two sizes, as jobs."""
    folder.mkdir(exist_ok=True)
    found = []
    for i in range(count):
        name = f"{'x/' * (i % 2)}{i:03d}"
        (folder / name).parent.mkdir(exist_ok=True)
        if not (folder / f"{name}.png").exists():
            Image.new("RGB", (8 + 8 * (i % 3 == 0), 8), (i % 256, 0, 0)).save(folder / f"{name}.png")
        found.append(Job(name, f"{name}.png", f"thing {i}", ("another",) * edits))
    return Jobs(folder, tuple(found))


def files_in(folder):
    """Everything of an output folder but the journal."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*") if path.is_file() and not path.name.startswith("journal")
    }  # fmt: skip


class Stop(Exception):  # noqa: N818
    """What a test stops the work with."""


@settings(max_examples=8)
@given(st.lists(st.integers(1, 4), max_size=4), st.integers(1, 3), st.sets(st.integers(0, 6), max_size=3))
def test_stopped_anywhere_the_same_bytes_come_out(tmp_path_factory, stops, edits, bad):
    """Guards resuming: whenever and however often it is stopped, no job is lost, none is recorded twice, and every file
    with the manifest is as if it had never been stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    jobs, names = jobs_in(folder / "in", 7, edits), set()
    fails = [jobs.jobs[i].name for i in bad]
    run.run(jobs, OPTIONS, folder / "whole", lambda options: Fake(options, bad=fails))
    made = []
    for stop in [*stops, None]:

        def tell(progress, stop=stop):
            if progress.made:
                made.append(progress.made)
            if stop is not None and progress.made >= stop:
                raise Stop

        try:
            rows, _ = run.run(jobs, OPTIONS, folder / "parts", lambda options: Fake(options, bad=fails), tell=tell)
        except Stop:
            continue
        names = {row.name for row in rows.values() if row.state == "done"}
    assert files_in(folder / "parts") == files_in(folder / "whole")
    assert names == {job.name for job in jobs.jobs} - set(fails)
    assert {r.name for r in rows.values() if r.state == "failed"} == set(fails)


def test_killed_anywhere_the_same_bytes_come_out(tmp_path):
    """Guards kills that nothing can catch, while files and the journal are written."""
    jobs = jobs_in(tmp_path / "in", 60)
    run.run(jobs, OPTIONS, tmp_path / "whole", Fake)
    kills = 0
    for attempt in range(6):
        pid = os.fork()
        if pid == 0:
            run.run(jobs, OPTIONS, tmp_path / "parts", lambda options: Fake(options, naps=0.005))
            os._exit(0)
        time.sleep(0.04 + 0.03 * attempt)
        os.kill(pid, signal.SIGKILL)
        kills += os.waitpid(pid, 0)[1] == signal.SIGKILL
    rows, _ = run.run(jobs, OPTIONS, tmp_path / "parts", Fake)
    assert kills >= 2 and {row.state for row in rows.values()} == {"done"}
    assert files_in(tmp_path / "parts") == files_in(tmp_path / "whole")


def test_what_is_done_is_not_done_again_and_failures_only_on_demand(tmp_path):
    jobs, workers = jobs_in(tmp_path / "in", 7), []

    def make(bad=()):
        def made(options):
            workers.append(Fake(options, bad=bad))
            return workers[-1]

        return made

    bad = jobs.jobs[2].name
    rows, options = run.run(jobs, OPTIONS, tmp_path / "out", make([bad]))
    assert rows[bad].sentence == f"{bad} is bad" and options["batch"] == 3
    listed = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [(one["name"], one["state"]) for one in listed] == [
        (job.name, "failed" if job.name == bad else "done") for job in jobs.jobs
    ]
    before = files_in(tmp_path / "out")
    run.run(jobs, OPTIONS, tmp_path / "out", make())
    assert len(workers) == 1 and files_in(tmp_path / "out") == before
    rows, _ = run.run(jobs, OPTIONS, tmp_path / "out", make(), retry=True)
    assert rows[bad].state == "done" and workers[1].computed == [rows[bad].of_group]
    # whose file is gone is made again, the others of its group are left alone
    (tmp_path / "out" / "edited" / f"{bad}.png").unlink()
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "edited").rglob("*.png")}
    run.run(jobs, OPTIONS, tmp_path / "out", make())
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    run.run(jobs, OPTIONS, tmp_path / "whole", make())
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


def test_a_changed_list_costs_what_changed(tmp_path):
    """Guards people who mend a caption or add pictures: done jobs stay as they are."""
    jobs, computed = jobs_in(tmp_path / "in", 8), []

    class Noted(Fake):
        def compute(self, tasks, load):
            for task, outcomes in super().compute(tasks, load):
                computed.append([job.name for job in task[1].jobs])
                yield task, outcomes

    run.run(replace(jobs, jobs=jobs.jobs[:6]), OPTIONS, tmp_path / "out", Noted)
    before, computed[:] = files_in(tmp_path / "out"), []
    mended = replace(jobs.jobs[1], prompt="mended")
    rows, _ = run.run(replace(jobs, jobs=(mended, *jobs.jobs[2:])), OPTIONS, tmp_path / "out", Noted)
    assert sorted(chain(*computed)) == sorted([mended.name, jobs.jobs[6].name, jobs.jobs[7].name])
    after = files_in(tmp_path / "out")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"edited/{mended.name}.png", "manifest.csv", "manifest.jsonl"}
    assert set(rows) == {job.name for job in jobs.jobs[1:]}


def test_a_picture_that_is_another_now_is_done_again(tmp_path):
    """Guards pictures under an old one's name: overwritten, or of another folder. One that was only copied stays."""
    jobs, computed = jobs_in(tmp_path / "in", 6), []
    out, paths = tmp_path / "out", [jobs.path(job) for job in jobs.jobs]

    class Noted(Fake):
        def compute(self, tasks, load):
            for task, outcomes in super().compute(tasks, load):
                computed.extend(job.name for job in task[1].jobs)
                yield task, outcomes

    def done(jobs=jobs):
        computed.clear()
        rows, _ = run.run(jobs, OPTIONS, out, Noted)
        assert {row.state for row in rows.values()} == {"done"}
        return sorted(computed)

    assert len(done()) == 6
    os.utime(paths[0], (1, 1))
    assert done() == []
    # as many bytes, another colour, another shape
    Image.new("RGB", (8, 8), (200, 0, 0)).save(paths[2])
    Image.new("RGB", (16, 8), (3, 3, 3)).save(paths[4])
    assert done() == [jobs.jobs[2].name, jobs.jobs[4].name] and done() == []
    other = jobs_in(tmp_path / "other", 6)
    Image.new("RGB", (8, 8), (7, 7, 7)).save(other.path(other.jobs[1]))
    assert set(done(other)) == {jobs.jobs[i].name for i in (1, 2, 4)}
    fresh = run.run(other, OPTIONS, tmp_path / "fresh", Noted)[0]
    found = {name: (out / "edited" / f"{name}.png").read_bytes().split()[-1] for name in fresh}
    assert found == {name: (tmp_path / "fresh/edited" / f"{name}.png").read_bytes().split()[-1] for name in fresh}
    # of one that is gone, what was made stays
    other.path(other.jobs[0]).unlink()
    assert done(other) == [] and (out / "edited" / f"{jobs.jobs[0].name}.png").exists()


def test_a_waiting_picture_may_become_another(tmp_path):
    """Guards a stop: what was planned for a picture is planned again for another one, of any size."""
    jobs, out = jobs_in(tmp_path / "in", 4), tmp_path / "out"
    with pytest.raises(Stop):
        run.run(jobs, OPTIONS, out, Fake, tell=_stop)
    Image.new("RGB", (32, 8)).save(jobs.path(jobs.jobs[1]))
    rows, _ = run.run(jobs, OPTIONS, out, Fake)
    with journal.opened(out) as book:
        assert book.group(rows[jobs.jobs[1].name].of_group).size == (32, 8)


def test_a_picture_that_was_only_copied_is_read_once(tmp_path, monkeypatch):
    """Guards time: many thousand pictures under another time are looked into once, not in every run."""
    jobs, out, read = jobs_in(tmp_path / "in", 3), tmp_path / "out", []
    run.run(jobs, OPTIONS, out, Fake)
    monkeypatch.setattr(run, "open_ordinary", lambda path, real=run.open_ordinary: read.append(path) or real(path))
    os.utime(jobs.path(jobs.jobs[0]), (1, 1))
    for _ in range(3):
        run.run(jobs, OPTIONS, out, Fake)
    assert read == [jobs.path(jobs.jobs[0])]


def test_what_was_made_for_an_earlier_line_is_not_taken_for_the_new_one(tmp_path):
    """Guards scores: where the new line fails, or has fewer edits, nothing of the old one is left."""
    jobs, out = jobs_in(tmp_path / "in", 3, edits=2), tmp_path / "out"
    run.run(jobs, OPTIONS, out, Fake)
    (out / "edited" / "own.png").write_text("somebody's")
    first, second, third = jobs.jobs
    mended = [replace(first, prompt="fails"), replace(second, edits=("one",)), third]
    run.run(replace(jobs, jobs=tuple(mended)), OPTIONS, out, lambda options: Fake(options, bad=[first.name]))
    left = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    of_third = set(compute.files_of(third, False))
    assert left == {f"edited/{second.name}.png", "edited/own.png"} | of_third


def test_another_model_spoils_nothing(tmp_path):
    """Guards a slip of the hand: a model of another size is refused before anything is planned for it."""
    jobs, out = jobs_in(tmp_path / "in", 4), tmp_path / "out"
    run.run(replace(jobs, jobs=jobs.jobs[:3]), OPTIONS, out, Fake)

    class Other(Fake):
        def about(self):
            return replace(super().about(), fingerprint="other", side=16)

    with pytest.raises(InputError, match="another model"):
        run.run(jobs, OPTIONS, out, Other)
    rows, _ = run.run(jobs, OPTIONS, out, Fake)
    assert {row.state for row in rows.values()} == {"done"}
    with journal.opened(out) as book:
        assert all(book.group(row.of_group).size[1] == 8 for row in rows.values())


def test_a_folder_has_one_process_and_one_kind_of_results(tmp_path):
    jobs = jobs_in(tmp_path / "in", 2)
    run.run(jobs, OPTIONS, tmp_path / "out", Fake, batch=2)
    for options, batch, said in (
        (replace(OPTIONS, steps=3), "auto", "begun with --steps 2, not 3"),
        (replace(OPTIONS, keep_pixels=False), "auto", "--keep-pixels"),
        (OPTIONS, 3, "begun with --batch 2"),
    ):
        with pytest.raises(InputError, match=said):
            run.run(jobs, options, tmp_path / "out", Fake, batch)

    class Other(Fake):
        def about(self):
            return replace(super().about(), fingerprint="other")

    with pytest.raises(InputError, match="another model"):
        run.run(jobs_in(tmp_path / "in", 3), OPTIONS, tmp_path / "out", Other)
    with journal.opened(tmp_path / "out"):
        pid = os.fork()
        if pid == 0:
            try:
                run.run(jobs, OPTIONS, tmp_path / "out", Fake)
            except InputError as error:
                os._exit(0 if "another process works" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
    (tmp_path / "out" / "journal.sqlite").write_bytes(b"no database" * 200)
    with pytest.raises(InputError, match="is damaged"):
        run.run(jobs, OPTIONS, tmp_path / "out", Fake)


def test_links_in_the_output_folder_are_replaced_and_not_followed(tmp_path):
    """Guards files elsewhere: neither a link under a picture's name nor one under that of what is being written."""
    jobs = jobs_in(tmp_path / "in", 1)
    (tmp_path / "own.txt").write_text("mine")
    (tmp_path / "out" / "edited").mkdir(parents=True)
    for name in (run.WRITING, "edited/000.png"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "own.txt")
    rows, _ = run.run(jobs, OPTIONS, tmp_path / "out", Fake)
    assert rows["000"].state == "done" and (tmp_path / "own.txt").read_text() == "mine"
    assert not (tmp_path / "out" / "edited" / "000.png").is_symlink()


@pytest.mark.parametrize("name", ["edited", "edited/x"])
def test_a_linked_folder_leads_nowhere(tmp_path, name):
    """Guards folders elsewhere: what is written stays in the output folder."""
    jobs, out = jobs_in(tmp_path / "in", 2), tmp_path / "out"
    (tmp_path / "else").mkdir()
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(tmp_path / "else")
    with pytest.raises(InputError, match="leads out of the folder by a link"):
        run.run(jobs, OPTIONS, out, Fake)
    assert not list((tmp_path / "else").iterdir())
    # the output folder itself may be a link
    (tmp_path / "way").symlink_to(tmp_path / "else")
    assert {row.state for row in run.run(jobs, OPTIONS, tmp_path / "way", Fake)[0].values()} == {"done"}


def test_a_journal_of_a_stranger_leads_nowhere(tmp_path):
    """Guards an output folder from elsewhere: names in its journal stay in the folders, or are refused."""
    jobs = jobs_in(tmp_path / "in", 2)
    with pytest.raises(Stop):
        run.run(jobs, OPTIONS, tmp_path / "out", Fake, tell=_stop)
    for wrong, said in (("../../x", "is no name for files"), (None, "damaged")):
        with sqlite3.connect(tmp_path / "out" / "journal.sqlite") as database:
            (text,) = database.execute("SELECT jobs FROM groups").fetchone()
            records = [{**record, "name": wrong} for record in json.loads(text)] if wrong else [3]
            database.execute("UPDATE groups SET jobs = ?", (json.dumps(records),))
        with pytest.raises(InputError, match=said):
            run.run(jobs, OPTIONS, tmp_path / "out", Fake)


DAMAGE = [
    "UPDATE run SET value = 'no json' WHERE key = 'batch'",
    "DELETE FROM run WHERE key = 'batch'",
    "DELETE FROM groups",
    "UPDATE groups SET size = '7'",
    *(f"UPDATE jobs SET files = '{files}'" for files in ("{", "7", "[1]")),
    "UPDATE jobs SET picture = x'00'",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_journal_is_one_sentence(tmp_path, damage):
    """Guards a journal that some disk or hand has changed."""
    jobs = jobs_in(tmp_path / "in", 2)
    with pytest.raises(Stop):
        run.run(jobs, OPTIONS, tmp_path / "out", Fake, tell=_stop)
    with sqlite3.connect(tmp_path / "out" / "journal.sqlite") as database:
        database.execute(damage)
    with pytest.raises(InputError, match=r"the journal is damaged .*; give another --out"):
        run.run(jobs, OPTIONS, tmp_path / "out", Fake)


def _stop(progress):
    raise Stop


# ---- with a model ----


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four pictures for a tiny model, as jobs with one edit each; the third is no picture, the last names a word that
    is nowhere."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        save_image(torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(i)), folder / f"{i}.png")
    (folder / "2.png").write_text("no picture")
    jobs = [Job(f"{i}", f"{i}.png", f"a photo of a {w} cat", (f"a photo of a {w} dog",)) for i, w in
            enumerate(("red", "blue", "old", "big", "green", "small"))]  # fmt: skip
    jobs[5] = replace(jobs[5], settings=EditSettings(blend_words=["horse"]))
    jobs[4] = replace(jobs[4], settings=EditSettings(cross_replace=0.3))
    return Jobs(folder, tuple(jobs))


@pytest.fixture(scope="module")
def options(model_folder):
    return Options(str(model_folder), device="cpu", steps=2, preset="direct", guidance=2.0, inversions=True)


@pytest.fixture(scope="module")
def by_one(photos, options, tmp_path_factory):
    """What one process makes of them."""
    out = tmp_path_factory.mktemp("by-one")
    return out, run.run(photos, options, out, run.Here, batch=3)[0]


def test_each_photo_has_edits_and_settings_of_its_own(photos, model_folder):
    """Guards a batch of different edits: rows as single runs give them, to rounding."""
    model = load_model(model_folder)
    chosen = [photos.jobs[i] for i in (0, 1, 4)]
    whole = torch.cat([load_image(photos.path(job), 32) for job in chosen])
    inversion = prepare(model, whole, [job.prompt for job in chosen], 2, "fast", 2.0)
    edits = [job.edits * 2 if i else (*job.edits, "a tree") for i, job in enumerate(chosen)]
    found = apply_each(model, inversion, edits, [job.settings for job in chosen]).pictures
    for i, job in enumerate(chosen):
        alone = prepare(model, whole[i : i + 1], job.prompt, 2, "fast", 2.0)
        one = apply(model, alone, edits[i], job.settings).pictures
        assert torch.allclose(found[2 * i : 2 * i + 2], one, atol=2e-3)
        own = inversion.of_photo(i)
        assert torch.allclose(own.trajectory.latents, alone.trajectory.latents, atol=1e-4)
        assert own.null.pin.guidance.shape == alone.null.pin.guidance.shape and own.prompts == alone.prompts
    assert not torch.allclose(found[0], found[1], atol=2e-3)


def test_failures_are_listed_and_change_nothing_else(photos, options, by_one, tmp_path):
    out, rows = by_one
    assert {name: row.state for name, row in rows.items()} == {
        "0": "done", "1": "done", "2": "failed", "3": "done", "4": "done", "5": "failed",
    }  # fmt: skip
    assert "cannot be read as an image" in rows["2"].sentence and '"horse" is in neither prompt' in rows["5"].sentence
    made = files_in(out)
    assert set(made) == {
        "run.json", "manifest.jsonl", "manifest.csv",
        *(f"edited/{i}.png" for i in (0, 1, 3, 4)), *(f"inversions/{i}.safetensors" for i in (0, 1, 3, 4)),
    }  # fmt: skip
    found = load_inversion(out / "inversions" / "3.safetensors")
    assert found.prompts == ("a photo of a big cat",) and found.trajectory.batch == 1
    # this preset never leaves a picture out of a step, so what is beside it changes no bit
    worker = Worker(options)
    # of two, as above: some processors round otherwise in a group of another size
    alone = worker.compute(
        Group((32, 32), (photos.jobs[4], replace(photos.jobs[5], name="y"))),
        [photos.path(photos.jobs[4]).read_bytes(), "gone"],
    )
    assert [one.sentence for one in alone] == ["", "gone"]
    assert alone[0].files == {name: made[name] for name in ("edited/4.png", "inversions/4.safetensors")}


def test_one_job_that_breaks_the_network_is_found(photos, options, monkeypatch):
    """Guards the rest of a group: what only fails while it is computed is found by trying each in its place."""
    worker, jobs = Worker(options), [photos.jobs[i] for i in (0, 1, 3)]
    pictures = [photos.path(job).read_bytes() for job in jobs]
    usual = worker.compute(Group((32, 32), tuple(jobs)), pictures)

    def encode(model, photos, prompts, steps):
        if "a photo of a blue cat" in prompts:
            raise NonFiniteError("NaN at step 1")
        return real(model, photos, prompts, steps)

    real = compute.encode
    monkeypatch.setattr(compute, "encode", encode)
    found = worker.compute(Group((32, 32), tuple(jobs)), pictures)
    assert [one.sentence for one in found] == ["", "NaN at step 1", ""]
    assert [found[0].files, found[2].files] == [usual[0].files, usual[2].files]
    monkeypatch.setattr(compute, "encode", lambda *given: (_ for _ in ()).throw(RuntimeError("CUDA error: lost")))
    with pytest.raises(RuntimeError, match="lost"):
        worker.compute(Group((32, 32), tuple(jobs)), pictures)
    monkeypatch.setattr(compute, "encode", lambda *given: (_ for _ in ()).throw(RuntimeError("out of memory")))
    found = worker.compute(Group((32, 32), tuple(jobs)), pictures)
    assert {one.sentence for one in found} == {compute._sentence(RuntimeError("out of memory"))}


def test_a_picture_that_was_exchanged_or_turned(photos, options, tmp_path):
    """Guards the size that a group was planned for: by the header and the EXIF turn of a picture."""
    picture = Image.fromarray(np.full((40, 80, 3), 90, np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture.save(tmp_path / "x.jpg", exif=exif)
    assert compute.size_on_disk(tmp_path / "x.jpg") == (40, 80)
    for turn in range(1, 9):
        exif[ORIENTATION] = turn
        for ending in ("jpg", "png", "webp", "tiff"):
            turned = tmp_path / f"turned.{ending}"
            picture.save(turned, **({"tiffinfo": {ORIENTATION: turn}} if ending == "tiff" else {"exif": exif}))
            assert compute.size_on_disk(turned) == read_picture(turned).size, (turn, ending)
    worker, job = Worker(options), replace(photos.jobs[0], picture="x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    fitted = worker.about().fitted((40, 80))
    assert fitted == (32, 64)
    (good,) = worker.compute(Group(fitted, (job,)), [content])
    (bad,) = worker.compute(Group((32, 32), (job,)), [content])
    assert good.sentence == "" and "the picture is another now: 32×64 pixels, not 32×32" in bad.sentence


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_every_part_of_a_model_counts(options, tmp_path, part):
    """Guards a folder's one kind of results: with another autoencoder or text encoder it would hold two."""
    folder = Path(shutil.copytree(options.model, tmp_path / "model"))
    assert Worker(replace(options, model=str(folder))).about() == Worker(options).about()
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    name = max(tensors, key=lambda name: tensors[name].numel())
    save_file({**tensors, name: tensors[name] * 1.5}, file)
    changed = Worker(replace(options, model=str(folder))).about()
    assert changed.fingerprint != Worker(options).about().fingerprint


def test_an_overflow_is_told_and_decides_nothing_later(photos, options, monkeypatch):
    """Guards half precision: a group that was done again in float32 leaves the next one as it would be without it."""
    worker, job = Worker(options), photos.jobs[0]
    group, content = Group((32, 32), (job,)), [photos.path(job).read_bytes()]
    worker.options = replace(options, dtype="bfloat16")
    worker.model.denoiser.unet.to(torch.bfloat16)
    usual = worker.compute(group, content)

    def encode(model, photos, prompts, steps):
        model.tell("once more in float32")
        model.compute_in_float32()
        return real(model, photos, prompts, steps)

    real = compute.encode
    with monkeypatch.context() as patched:
        patched.setattr(compute, "encode", encode)
        (other,) = worker.compute(group, content)
    assert "once more in float32" in other.notes and other.files != usual[0].files
    assert [one.files for one in worker.compute(group, content)] == [usual[0].files]


def test_how_many_at_once_is_measured(options, monkeypatch):
    worker = Worker(options)
    assert worker.best_batch((32, 32), 1, 4) in (1, 2, 4)
    times = {1: 1.0, 2: 1.6, 4: 2.4, 8: 2.3 * 2, 16: 99.0}
    monkeypatch.setattr(worker, "_probe", lambda size, edits, count: (times[count], count < 8))
    # the eight are not so much faster that they would be worth it
    assert worker.best_batch((32, 32), 1, 32) == 4
    times[8] = 1.5 * times[4]
    # nor has sixteen room
    assert worker.best_batch((32, 32), 1, 32) == 8
    monkeypatch.setattr(worker, "_probe", lambda size, edits, count: (times[count], count < 2))
    assert worker.best_batch((32, 32), 1, 32) == 2
    monkeypatch.setattr(worker, "_probe", lambda size, edits, count: (times[count], count < 8))
    assert worker.best_batch((32, 32), 1, 3) == 2 and worker.best_batch((32, 32), 1, 1) == 1

    def full(size, edits, count):
        if count > 2:
            raise RuntimeError("CUDA out of memory")
        return times[count], True

    monkeypatch.setattr(worker, "_probe", full)
    assert worker.best_batch((32, 32), 1, 32) == 2


def test_two_workers_of_ray_make_the_same_bytes_though_one_is_killed(photos, options, by_one, tmp_path):
    """Guards the real Ray: groups go to any worker, a killed one starts again, and nothing else is left behind."""
    pytest.importorskip("ray")
    from nullinv_core.batch.cluster import Cluster

    killed = []

    class Shot(Cluster):
        def compute(self, tasks, load):
            import ray

            def loaded(group):
                if not killed and group.jobs[0].name == "4":
                    killed.append(ray.get(self._actors[1].__ray_call__.remote(lambda worker: os.getpid())))
                    os.kill(killed[0], signal.SIGKILL)
                return load(group)

            yield from super().compute(tasks, loaded)

    rows, _ = run.run(photos, options, tmp_path / "out", lambda made: Shot(2, "", made), batch=3)
    assert killed
    with pytest.raises(ProcessLookupError):
        os.kill(killed[0], 0)
    assert files_in(tmp_path / "out") == files_in(by_one[0])
    assert {name: row.state for name, row in rows.items()} == {name: row.state for name, row in by_one[1].items()}


@pytest.mark.full
def test_a_group_that_kills_every_worker_fails_alone(photos, options, tmp_path, monkeypatch):
    """Guards the rest of a list: a worker that dies at one group takes no other group with it, and is started again."""
    pytest.importorskip("ray")
    from nullinv_core.batch import cluster

    class Mortal(cluster.Remote):
        def compute(self, group, pictures):
            if "1" in [job.name for job in group.jobs]:
                os._exit(9)
            return super().compute(group, pictures)

    monkeypatch.setattr(cluster, "Remote", Mortal)
    rows, _ = run.run(photos, options, tmp_path / "out", cluster.cluster(1, ""), batch=2)
    assert {name for name, row in rows.items() if row.sentence == cluster.DIED} == {"0", "1"}
    assert [rows[name].state for name in "234"] == ["failed", "done", "done"]
