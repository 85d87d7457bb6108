"""The commands of a data set, on a tiny random model: batch, inspect, index, export and import."""

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file

from nullinv_core.batch.jobs import Defaults, read_jobs
from nullinv_core.batch.run import Here
from nullinv_core.cli import batch, main
from nullinv_core.cli.console import in_blocks, shows_pictures
from nullinv_core.errors import InputError
from nullinv_core.families import FAMILIES
from nullinv_core.files.exchange import CONVERT, _about, command_line, read_exchanged
from nullinv_core.files.job_file import RUN
from nullinv_core.files.store import load_inversion
from nullinv_core.photo.images import save_image
from nullinv_core.photo.preview import preview

from .test_cli import command  # noqa: F401

PROMPT, EDIT = "a red cat on a table", "a red dog on a table"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with captions beside them; one has none."""
    path = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        save_image(torch.rand(40, 32, 3, generator=torch.Generator().manual_seed(i)), path / f"{i}.png")
    for i in range(2):
        (path / f"{i}.txt").write_text(f"{PROMPT}\n{EDIT}\na red tree on a table\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def inverted(model_folder, folder, tmp_path_factory):
    """The output folder of a batch that writes inversions too."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["nullinv", *map(str, (
            "batch", folder, "--model", model_folder, "--out", out, "--prompt", PROMPT, "--edit", EDIT, "--inversions",
            "--steps", 3, "--device", "cpu", "--batch", 2, "--preset", "fast", "--guidance", 2,
        ))])  # fmt: skip
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 0
    return out


def test_a_folder_becomes_a_data_set(command, inverted, folder, tmp_path):  # noqa: F811
    """Guards batch, index and inspect: what each says of the same files, and their captions' several edits."""
    made = sorted(path.relative_to(inverted).as_posix() for path in inverted.rglob("*.png"))
    assert made == ["edited-2/0.png", "edited-2/1.png", "edited/0.png", "edited/1.png", "edited/2.png"]
    bad = inverted / "inversions" / "bad.safetensors"
    bad.write_text("nothing")
    status, out, _ = command("index", inverted, "--out", tmp_path / "index.csv")
    assert (status, out) == (0, f"saved: {tmp_path / 'index.csv'} (4 files, 1 of them damaged)\n")
    rows = list(csv.DictReader((tmp_path / "index.csv").open(encoding="utf-8")))
    assert [row["file"] for row in rows] == [f"inversions/{name}.safetensors" for name in ("0", "1", "2", "bad")]
    assert {row["prompts"] for row in rows[:3]} == {PROMPT} and rows[0]["guidance"] == "2.0"
    assert rows[0]["pixels"] == "32×40" and rows[0]["steps"] == "3" and "safetensors" in rows[3]["why"]
    assert command("index", inverted, "--out", tmp_path / "index.jsonl")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["file"] for line in lines] == [row["file"] for row in rows]
    file = inverted / "inversions" / "1.safetensors"
    status, out, _ = command("inspect", file, "--json")
    told, null = json.loads(out), load_inversion(file).null
    assert told["loss"] == pytest.approx(float(null.losses[0])) and told["iterations"] == int(null.iterations.sum())
    assert told["edits"] == "from its path" and told["fingerprint"] == rows[0]["fingerprint"]
    blocks, low, _, high = told["curve"].split()
    assert len(blocks) == 3 and float(low) <= float(null.losses.min()) * 1.1
    assert "█" in blocks and float(high) == pytest.approx(float(null.losses.max()), rel=0.1)
    status, out, _ = command("inspect", file)
    assert status == 0 and all(word in out for word in (PROMPT, blocks, "32×40"))
    assert command("inspect", file, "--thumbnail", tmp_path / "small.png")[0] == 0
    small = np.asarray(Image.open(tmp_path / "small.png")) / 255
    assert small.shape == (5, 4, 3) and float(small.std()) > 1e-3
    assert command("inspect", file, "--thumbnail", tmp_path / "small.jpg")[0] == 2
    assert command("inspect", tmp_path / "none")[0] == 2
    status, _, err = command("index", inverted, "--out", tmp_path / "index.txt")
    assert status == 2 and 'index.txt" must end in .csv or .jsonl' in err
    bad.unlink()


def test_a_batch_is_checked_before_a_model_is_loaded(command, folder, tmp_path):  # noqa: F811
    (tmp_path / "job.json").write_text(json.dumps({"format": "nullinv-batch-job", "version": 1, "steps": "many"}))
    out = ("--out", tmp_path / "out")
    for given, said in (
        ((folder, "--model", "demo", *out), r"2\.png\": nothing says what the picture shows"),
        ((folder, *out, "--prompt", "a", "--edit", "b"), "--model is empty"),
        ((folder, "--model", "demo", "--out", folder, "--prompt", "a", "--edit", "b"), "holds the pictures themselves"),
        ((folder, "--model", "demo", *out, "--prompt", "a", "--edit", "b", "--batch", "0"), "--batch must be auto or"),
        ((folder, "--model", "demo", *out, "--prompt", "a", "--edit", "b", "--workers", "no"), "--workers must be"),
        ((folder, "--model", "demo", *out, "--job", tmp_path / "job.json"), "has a steps of the wrong kind"),
        ((folder, "--model", "demo", *out, "--prompt", "a", "--edit", "b", "--cross-replace", "3"), "cross replace"),
        ((folder, "--model", "demo", *out, "--prompt", "a", "--edit", "b", "--edit", ""), "an edit is empty; say what"),
        (
            (folder, "--model", "demo", *out, "--prompt", "a", "--edit", "b", "--pictures", folder),
            "leave out --pictures",
        ),
        *(
            (
                (folder, "--model", "demo", *out, "--prompt", "a", "--edit", "b", "--inner-steps", steps),
                "lie in 1…100, not",
            )
            for steps in (0, 101)
        ),
        ((tmp_path / "none", "--model", "demo", *out), "there is no folder and no .csv"),
    ):
        status, _, err = command("batch", *given)
        assert status == 2 and re.search(said, err), err
    assert not (tmp_path / "out").exists()


def test_a_batch_writes_over_nothing_that_it_reads(command, folder, tmp_path):  # noqa: F811
    """Guards lists, job files and pictures in the output folder; and pictures that lie in it by another way."""
    out = tmp_path / "out"
    (out / "edited").mkdir(parents=True)
    shutil.copy(folder / "0.png", out / "edited" / "x.png")
    (tmp_path / "way").symlink_to(out)
    lists = {
        out / "manifest.csv": "x.png", tmp_path / "list.csv": "out/edited/x.png",
        tmp_path / "way.csv": "way/edited/x.png",
    }  # fmt: skip
    for file, picture in lists.items():
        file.write_text(f"picture,prompt,edit,name\n{picture},a cat,a dog,x\n")
    (out / "run.json").write_text(
        json.dumps({"format": "nullinv-batch-job", "version": 1, "prompt": "a", "edits": ["b"]})
    )
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    given = ("--model", "demo", "--out", out)
    for source, more, said in (
        (out / "manifest.csv", ("--pictures", folder), "lies in --out, where it may be written over"),
        (folder, ("--job", out / "run.json"), "lies in --out, where it may be written over"),
        (tmp_path / "list.csv", (), 'the picture "out/edited/x.png" lies in --out'),
        (tmp_path / "way.csv", (), 'the picture "way/edited/x.png" lies in --out'),
    ):
        status, _, err = command("batch", source, *given, *more)
        assert status == 2 and said in err, err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_the_output_folder_is_not_searched_whatever_way_leads_there(tmp_path):
    """Guards a second run: its own edits are no photos."""
    pictures = tmp_path / "pictures"
    (pictures / "out").mkdir(parents=True)
    for name in ("a.png", "out/a.png"):
        Image.new("RGB", (8, 8)).save(pictures / name)
    (tmp_path / "link").symlink_to(pictures)
    for out in (pictures / "out", tmp_path / "link" / "out", pictures / "x" / ".." / "out"):
        assert [job.picture for job in read_jobs(pictures, Defaults("a", ("b",)), out=out).jobs] == ["a.png"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *(({"model": value}, "a model of the wrong kind") for value in (5, None, ["demo"], {})),
        ({"model": "\ud800"}, "bytes that are not text"),
        *(({"steps": value}, "a steps of the wrong kind") for value in (True, 2.5, "2", None)),
        *(({"guidance": value}, "a guidance of the wrong kind") for value in ("3", False)),
        ({"guidance": 10**400}, "guidance must lie in 0.0…100.0, not 10*…$"),
        ({"preset": 3}, "a preset of the wrong kind"),
        ({"size": None}, "a size of the wrong kind"),
        ({"keep_pixels": 1}, "a keep_pixels of the wrong kind"),
    ],
)
def test_a_job_file_says_everything_of_the_run_in_its_kind(command, folder, tmp_path, wrong, said):  # noqa: F811
    """Guards --job against files that somebody has changed: one sentence, whichever entry it is."""
    job = {"format": "nullinv-batch-job", "version": 1, "prompt": PROMPT, "edits": [EDIT], "model": "none", **wrong}
    (tmp_path / "job.json").write_text(json.dumps(job))
    status, _, err = command("batch", folder, "--job", tmp_path / "job.json", "--out", tmp_path / "out")
    assert status == 2 and re.search(said, err.strip()) and err.count("\n") == 1, err
    assert set(RUN) == {"model", "steps", "guidance", "preset", "size", "keep_pixels"}


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("2,1", 2), (" 2 , 1", 2), *((odd, 0) for odd in (
    "", ",", "no", "-1", "0", "2.5", "9" * 5000,
))])  # fmt: skip
def test_threads_are_as_openmp_reads_them(monkeypatch, asked, threads):
    """Guards OMP_NUM_THREADS: of a list the first number; what is none counts as not set."""
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert batch._workers("1", "cpu") == (Here, threads or torch.get_num_threads())
    for wrong in ("0", "-1", "9" * 5000, "²", "two"):
        with pytest.raises(InputError, match="--workers must be"):
            batch._workers(wrong, "cpu")
        with pytest.raises(InputError, match="--batch must be"):
            batch._batch(wrong)


def test_what_is_typed_wins_over_the_job_file_and_the_list_over_both(command, model_folder, folder, tmp_path):  # noqa: F811
    job = {"format": "nullinv-batch-job", "version": 1, "prompt": PROMPT, "edits": [EDIT], "steps": 2,
           "model": str(model_folder), "preset": "direct", "guidance": 3,
           "settings": {"cross_replace": 0.1, "self_replace": 0.2, "blend_words": "cat, dog"}}  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    status, _, err = command(
        "batch", folder, "--job", tmp_path / "job.json", "--out", tmp_path / "out", "--self-replace", 0.3,
        "--guidance", 2, "--device", "cpu", "--batch", 1,
    )  # fmt: skip
    assert status == 0, err
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["steps"], run["guidance"], run["preset"]) == (2, 2.0, "direct")
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    settings = rows[2]["settings"]
    assert (settings["cross_replace"], settings["self_replace"], settings["blend_words"]) == (0.1, 0.3, ["cat", "dog"])
    assert rows[0]["edits"] == [EDIT, "a red tree on a table"] and rows[2]["edits"] == [EDIT]


@pytest.mark.parametrize("to", ["notebook", "diffusers"])
def test_an_export_comes_back_the_same(command, inverted, model_folder, tmp_path, to):  # noqa: F811
    """Guards the exchange with other programs: the same bytes of latents and embeddings, in the other's order."""
    file, there, back = (
        inverted / "inversions" / "0.safetensors",
        tmp_path / "x.safetensors",
        tmp_path / "y.safetensors",
    )
    status, out, err = command("export", file, "--to", to, "--out", there)
    assert status == 0 and "load_file" in out, err
    first, tensors = load_inversion(file), load_file(there)
    assert torch.equal(tensors["uncond_embeddings"][0], first.null.at(3).text)
    assert torch.equal(tensors["ddim_latents"], first.trajectory.latents)
    assert ("inverted_latent" in tensors) == (to == "diffusers")
    assert command("import", there, "--model", model_folder, "--out", back, "--device", "cpu")[0] == 0
    second = load_inversion(back)
    assert torch.equal(second.trajectory.latents, first.trajectory.latents)
    assert second.null.embeddings.equals(first.null.embeddings) and second.null.guidance == 2
    assert second.prompts == first.prompts and not second.null.pinned
    assert torch.allclose(second.trajectory.context.text, first.trajectory.context.text, atol=1e-5)
    assert command("import", there, "--model", model_folder, "--out", back, "--device", "cpu", "--guidance", 5)[0] == 0
    assert load_inversion(back).null.guidance == 5
    for more in (("--image", file), ("--size", 64), ("--square",)):
        status, _, err = command("import", there, "--model", model_folder, "--out", back, *more)
        assert status == 2 and "leave out --image, --size and --square" in err, err
    status, _, err = command("reconstruct", "--inversion", back, "--out", tmp_path / "z.png", "--device", "cpu")
    assert status == 0, err


def test_a_cache_of_diffusers_is_converted_by_itself_and_imported(command, inverted, model_folder, folder, tmp_path):  # noqa: F811
    """Guards pickles of strangers: none is read, and the command that the message gives makes a file of tensors."""
    first = load_inversion(inverted / "inversions" / "2.safetensors")
    cache = tmp_path / "it's.pt"
    torch.save(list(first.null.embeddings.text.flip(0)), cache)
    given = ("--model", model_folder, "--out", tmp_path / "y.safetensors", "--device", "cpu", "--guidance", 2)
    status, _, err = command("import", cache, *given, "--prompt", PROMPT)
    assert status == 2 and "is a pickle, which can run code and is not read" in err
    python, *rest = shlex.split(err[err.index("python -I -c") :])
    assert python == "python"
    subprocess.run([sys.executable, *rest], check=True)
    status, _, err = command("import", tmp_path / "it's.safetensors", *given, "--prompt", PROMPT)
    assert status == 2 and "give the picture too, with --image" in err
    status, _, err = command(
        "import", tmp_path / "it's.safetensors", *given, "--prompt", PROMPT, "--image", folder / "2.png"
    )
    assert status == 0, err
    second = load_inversion(tmp_path / "y.safetensors")
    assert second.null.embeddings.equals(first.null.embeddings)
    assert torch.allclose(second.trajectory.clean, first.trajectory.clean, atol=1e-5)
    status, _, err = command("import", tmp_path / "it's.safetensors", *given)
    assert status == 2 and "--prompt is empty" in err


def test_the_command_for_a_pickle_is_typed_as_the_system_wants_it():
    """Guards Windows, whose shells know double quotes alone."""
    arguments = ["python", "-I", "-c", CONVERT.format(name="C:\\my files\\a.pt", new="C:\\my files\\b.safetensors")]
    typed = command_line(arguments, windows=True)
    assert typed.count('"') == 2 and typed.startswith('python -I -c "import') and typed.endswith('"')
    assert shlex.split(command_line(arguments, windows=False)) == arguments


def test_a_full_disk_during_an_export_is_one_line(command, inverted, tmp_path, monkeypatch):  # noqa: F811
    """Guards exports: safetensors has an error of its own for what the system refuses."""

    def refuse(*given, **more):
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")

    monkeypatch.setattr("nullinv_core.files.store.save_file", refuse)
    file = inverted / "inversions" / "2.safetensors"
    status, _, err = command("export", file, "--out", tmp_path / "x.safetensors")
    assert status == 2 and err.count("\n") == 1 and "File too large" in err
    assert list(tmp_path.glob("x*")) == []


@pytest.mark.parametrize("length", [0x80, 0x180, 0x480])
def test_a_length_that_looks_like_a_pickle_is_none(tmp_path, length):
    """Guards one file in 32: a pickle's first byte may be that of the length of safetensors' header."""
    header, _, numbers = save({"uncond_embeddings": torch.zeros(2, 1, 3, 4)}).partition(b"}}")
    header = (header[8:] + b"}}").ljust(length)
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + numbers.lstrip(b" "))
    assert read_exchanged(tmp_path / "x.safetensors").embeddings.shape == (2, 1, 3, 4)
    torch.save(torch.zeros(3), tmp_path / "y.safetensors", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"is a pickle.*y-converted\.safetensors"):
        read_exchanged(tmp_path / "y.safetensors")


def test_what_cannot_be_exchanged_is_said(command, inverted, model_folder, tmp_path):  # noqa: F811
    file, bad = inverted / "inversions" / "0.safetensors", tmp_path / "bad.safetensors"
    found = load_inversion(file)
    embeddings, latents = found.null.embeddings.text.flip(0), found.trajectory.latents
    given = ("--model", model_folder, "--out", tmp_path / "y.safetensors", "--prompt", "a", "--device", "cpu")
    for tensors, said in (
        ({"ddim_latents": latents}, "has no uncond_embeddings"),
        ({"uncond_embeddings": embeddings[0, 0]}, "must hold finite floats"),
        ({"uncond_embeddings": embeddings * torch.nan}, "must hold finite floats"),
        ({"uncond_embeddings": embeddings.repeat(1, 2, 1, 1)}, "must hold finite floats"),
        ({"uncond_embeddings": embeddings, "ddim_latents": latents[1:].clone()}, "not one fewer"),
        ({"uncond_embeddings": embeddings, "ddim_latents": latents[:, :, :3].clone()}, "3 channels, this model's 4"),
        ({"uncond_embeddings": embeddings[..., :-1].clone(), "ddim_latents": latents}, "this model needs"),
    ):
        save_file(tensors, bad)
        status, _, err = command("import", bad, *given)
        assert status == 2 and said in err, err
    save_file({"uncond_embeddings": embeddings}, bad, {"nullinv-export": json.dumps({"guidance": 10**400})})
    status, _, err = command("import", bad, *given)
    assert status == 2 and "guidance must be a number in 0…100, not 1000" in err, err
    assert not (tmp_path / "y.safetensors").exists()
    from nullinv_core.files.exchange import export

    for other, said in ((replace(found, null=None), "no null embeddings"), (replace(found, sizes=(8,) * 6), "SDXL")):
        with pytest.raises(InputError, match=said):
            export(tmp_path / "y.safetensors", other, "notebook")


@pytest.mark.parametrize("odd", [None, [], 3, "x", {"prompt": 3, "guidance": "3"}, {"guidance": True}])
def test_what_an_export_says_in_another_kind_counts_as_not_said(odd):
    for header in (odd, {"__metadata__": odd}, {"__metadata__": {"nullinv-export": json.dumps(odd)}}):
        assert _about(json.dumps(header).encode()) == ("", None)


def test_a_picture_in_a_terminal_is_the_picture():
    """Guards what inspect shows: two pixels a character, the upper one in front; wide pictures are scaled down."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 3), np.uint8)
    text = in_blocks(Image.fromarray(pixels), 80)
    assert text.plain == "▀▀▀\n▀▀▀\n"
    colours = [str(span.style).split(" on ") for span in text.spans]
    read = [[tuple(bytes.fromhex(colour[1:])) for colour in pair] for pair in colours]
    shown = np.array(read, np.uint8).reshape(2, 3, 2, 3).transpose(0, 2, 1, 3).reshape(4, 3, 3)
    assert (shown == pixels).all()
    for size, shape in (((300, 100), (60, 10)), ((2, 4096), (1, 40)), ((4096, 2), (60, 1))):
        lines = in_blocks(Image.new("RGB", size), 60).plain.splitlines()
        assert ({len(line) for line in lines}, len(lines)) == ({shape[0]}, shape[1])


@pytest.mark.parametrize("without", [{"no_color": True}, {"color_system": "standard"}, {"force_terminal": False}])
def test_a_terminal_without_colours_gets_no_picture(without):
    """Guards plain terminals, pipes and NO_COLOR: signs in one colour would say nothing."""
    with_colours = {
        "force_terminal": True,
        "color_system": "truecolor",
        "file": io.TextIOWrapper(io.BytesIO(), "utf-8"),
    }
    assert shows_pictures(Console(**with_colours))
    assert not shows_pictures(Console(**with_colours | without))
    assert not shows_pictures(Console(**with_colours | {"file": io.TextIOWrapper(io.BytesIO(), "ascii")}))


def test_a_thumbnail_of_what_no_model_makes():
    """Guards inspect against strangers' files: latents of other channels and huge ones are said or shown, not crashed
    on."""
    family = FAMILIES["v1"]
    for channels in (1, 16):
        with pytest.raises(InputError, match=f"latents of {channels} channels have no small picture"):
            preview(torch.zeros(1, channels, 2, 2), family)
    for huge in (torch.full((1, 4, 2, 2), 1e300, dtype=torch.float64), torch.full((1, 4, 2, 2), -6e4).half()):
        shown = preview(huge, family)
        assert shown.dtype == torch.float32 and shown.isfinite().all() and 0 <= shown.min() <= shown.max() <= 1
