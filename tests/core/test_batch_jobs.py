"""Lists of jobs as strangers write them, and what of them is computed together."""

import csv
import json
import os
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nullinv_core.batch.compute import size_on_disk
from nullinv_core.batch.jobs import OF_LIST, Defaults, Job, _job, job_of, read_job_file, read_jobs, read_value, unread
from nullinv_core.batch.plan import plan
from nullinv_core.batch.run import _content
from nullinv_core.errors import InputError
from nullinv_core.files.exchange import read_exchanged
from nullinv_core.prompt_to_prompt.kinds import chosen, layered, suited
from nullinv_core.settings import EditSettings


def table(path, *rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def lines(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8")
    return path


def test_a_folder_is_read_with_the_captions_beside_its_pictures(tmp_path):
    for name in ("b.png", "a.JPG", "deep/c.webp", ".hidden.png", "out/edited/b.png", "notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("\ufeffa cat\r\n\r\n a dog \na lion\n", encoding="utf-8")
    (tmp_path / "deep" / "c.txt").write_text("a tree\n", encoding="utf-8")
    defaults = Defaults("a thing", ("another thing",), {"self_replace": 0.1})
    found = read_jobs(tmp_path, defaults, out=tmp_path / "out").jobs
    settings = EditSettings(self_replace=0.1)
    assert found == (
        Job("a", "a.JPG", "a cat", ("a dog", "a lion"), settings),
        Job("b", "b.png", "a thing", ("another thing",), settings),
        Job("deep/c", "deep/c.webp", "a tree", ("another thing",), settings),
    )


def test_what_another_run_has_written_is_no_photo(tmp_path):
    """Guards results beside the photos: an edit of an edit would count as done."""
    for name in ("a.png", "old/journal.sqlite", "old/edited/a.png", "old/inversions/a.safetensors", "more/b.jfif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read_jobs(tmp_path, Defaults("a thing", ("another",))).jobs
    assert [job.picture for job in found] == ["a.png", "more/b.jfif"]


def test_names_on_the_disk_are_taken_as_they_are(tmp_path):
    """Guards blanks around a picture's name: without them it is another file, or none."""
    (tmp_path / " a.png").touch()
    with pytest.raises(InputError, match=r'/ a\.png": .* is no name for files on every system; rename the picture'):
        read_jobs(tmp_path, Defaults("a thing", ("another",)))


def test_captions_of_pictures_that_are_not_read_are_found(tmp_path):
    """Guards photos of telephones in HEIC: a folder would look done without them."""
    for name in ("a.png", "a.txt", "a.raw", "b.heic", "b.txt", "deep/c.HEIC", "deep/c.txt", "d.txt", "old/e.heic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert unread(tmp_path, None) == [tmp_path / "b.heic", tmp_path / "deep" / "c.HEIC"]


def test_csv_and_jsonl_say_the_same(tmp_path):
    """Guards both lists: every setting as a text and as JSON has it, several edits, names of one's own."""
    head = ["picture", "prompt", "edit", "edit_2", "name", "blend_words", "cross_replace", "word_windows", "weights",
            "variant", "mode"]  # fmt: skip
    cells = ["x/a.png", "a cat", "a dog", "a red dog", "first", "cat, dog", "0.2-0.8", "dog=0.4", "red=2,dog=-1", "7",
             "refine"]  # fmt: skip
    settings = {"blend_words": ["cat", "dog"], "cross_replace": [0.2, 0.8], "word_windows": {"dog": 0.4},
                "weights": {"red": 2, "dog": -1}, "variant": 7, "mode": "refine"}  # fmt: skip
    record = {"picture": "x/a.png", "prompt": "a cat", "edits": ["a dog", "a red dog"], "name": "first",
              "settings": settings}  # fmt: skip
    plain = {"picture": "x/b.png", "prompt": "a cat", "edit": "a dog"}
    rows = table(tmp_path / "l.csv", head, cells, ["x/b.png", "a cat", "a dog", *[""] * 8])
    by_table, by_lines = (read_jobs(p).jobs for p in (rows, lines(tmp_path / "l.jsonl", record, "", plain)))
    assert by_table == by_lines
    assert by_table[0].settings.cross_replace == (0.2, 0.8) and by_table[0].edits == ("a dog", "a red dog")
    assert by_table[1] == Job("x/b", "x/b.png", "a cat", ("a dog",))


def test_pie_bench_is_read_without_its_brackets(tmp_path):
    entry = {"image_path": "0_random/1.jpg", "original_prompt": "a [red] cat", "editing_prompt": "a [blue] cat",
             "blended_word": "cat dog", "editing_type_id": "6", "mask": []}  # fmt: skip
    (tmp_path / "mapping_file.json").write_text(json.dumps({"1": entry}))
    found = read_jobs(tmp_path)
    assert found.jobs == (
        Job("0_random/1", "0_random/1.jpg", "a red cat", ("a blue cat",), EditSettings(blend_words=["cat"])),
    )
    assert found.path(found.jobs[0]) == tmp_path / "annotation_images" / "0_random" / "1.jpg"
    (tmp_path / "mapping_file.json").write_text(json.dumps({"1": {**entry, "editing_prompt": 3}}))
    with pytest.raises(InputError, match=r'entry "1" of .* is not one of PIE-Bench'):
        read_jobs(tmp_path)


HUGE = 10**400
"""JSON may have it, and no float is as large."""
WRONG = [
    ({"picture": "../a.png"}, "lies outside of"),
    ({"picture": "/etc/a.png"}, "lies outside of"),
    ({"picture": "\\\\host\\a.png"}, "lies outside of"),
    ({"picture": "a.png", "name": "../b"}, "is no name for files"),
    ({"picture": "a.png", "name": "x/.b"}, "is no name for files"),
    ({"picture": "a.png", "name": "x\u0007"}, "is no name for files"),
    ({"picture": "a.png", "name": "c:b"}, "is no name for files"),
    *(
        ({"picture": "a.png", "name": name}, "is no name for files")
        for name in (
            "con",
            "x/NUL",
            "aux.txt/b",
            "Prn.a.b",
            "com1",
            "LPT9.x",
            "com³",
            "conin$",
            "nul ",
            "nul .a",
        )
    ),
    ({"picture": "aux.png"}, "is no name for files on every system; rename the picture, or give it another"),
    ({"picture": "a.png", "name": "b.png/c"}, "ends like a file"),
    ({"picture": "a.png", "name": "b" * 300}, "too long"),
    ({"picture": "."}, r"the picture .\.. is a folder; name a file"),
    ({"picture": "./"}, "is a folder; name a file"),
    ({"picture": 3}, "its picture is no text"),
    ({"prompt": "a cat"}, 'it names no "picture"'),
    ({"picture": "a.png", "edit": "a dog", "edits": ["a lion"]}, 'it has "edit" and "edits"; put all of them into'),
    ({"picture": "a.png", "edits": ["a dog", "( )"]}, "an edit is empty; say what the picture should show instead"),
    ({"picture": "a.png", "settings": {"kind": "add", "strength": 0.5}}, 'replace alone, and the kind is "add"; leave'),
    ({"picture": "a.png", "settings": {"weights": "a=2,dog"}}, 'the weight "dog" must look like WORD=2.0'),
    ({"picture": "a.png", "settings": {"weights": "a=2,a =3"}}, 'the setting weights names "a" twice'),
    ({"picture": "a.png", "edits": [3]}, "its edits are no texts"),
    ({"picture": "a.png", "edits": ["x"] * 65}, "65 edits; 64 at most"),
    ({"picture": "a.png", "prompt": "a\ud800"}, "not text"),
    *(({"picture": "a.png", key: "a (cat:9999)"}, 'weight of "cat" must be') for key in ("prompt", "edit")),
    ({"picture": "a.png", "settings": {"cross": 1}}, 'there is no setting "cross"'),
    ({"picture": "a.png", "settings": {"cross_replace": 2}}, "must lie in 0…1"),
    ({"picture": "a.png", "settings": {"cross_replace": HUGE}}, "must lie in 0…1 .* not 10*…$"),
    ({"picture": "a.png", "settings": {"self_replace": [0, HUGE]}}, "must lie in 0…1"),
    ({"picture": "a.png", "settings": {"word_windows": {"cat": HUGE}}}, "must lie in 0…1"),
    ({"picture": "a.png", "settings": {"variant": HUGE}}, "must lie in 0…9223372036854775807, not 10*…$"),
    ({"picture": "a.png", "settings": {"weights": {"cat": HUGE}}}, "in ±1000, not 10*…$"),
    ({"picture": "a.png", "settings": {"cross_replace": "often"}}, "cross_replace cannot be .often.; give 0.4 or"),
    ({"picture": "a.png", "settings": {"weights": {"cat": True}}}, "weights cannot be"),
    ({"picture": "a.png", "settings": []}, "its settings are no names with values"),
    ({"picture": "a.png", "colour": 1}, "there is no 'colour'"),
    ("[1]", "no JSON object"),
    ("{", "is no JSON"),
]


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_what_is_wrong_is_said_with_its_line(tmp_path, line, said):
    """Guards the work on a long list: a mistake is found before anything is loaded, and where it stands."""
    good = {"picture": "good.png", "prompt": "a cat", "edit": "a dog"}
    path = lines(tmp_path / "l.jsonl", good, line)
    with pytest.raises(InputError, match=said) as error:
        read_jobs(path, Defaults("a cat", ("a dog",)))
    assert str(error.value).startswith(f'line 2 of "{path}"')


def test_what_is_wrong_with_the_whole_list_is_said(tmp_path):
    good = {"picture": "a.png", "prompt": "a cat", "edit": "a dog"}
    for records, said in (
        ([good, {**good, "picture": "a.jpg"}], '"a.png" and "a.jpg" would both be written to "a"'),
        ([good, {**good, "picture": "A.png"}], "would both be written"),
        (
            [good, good],
            r'"a.png" comes twice, .* put all its edits into one line of a list, or give each line a "name"',
        ),
        ([good, {"picture": "b.png"}, {"picture": "c.png"}], r"line 2 of .* \(and 1 more\): nothing says"),
        ([{"picture": "b.png", "prompt": "a cat"}], "line 1 of .*: there is no edit"),
        ([], "has no pictures"),
    ):
        with pytest.raises(InputError, match=said):
            read_jobs(lines(tmp_path / "l.jsonl", *records))
    assert (
        len(read_jobs(lines(tmp_path / "l.jsonl", {"picture": "b.png", "prompt": "a"}), edits_needed=False).jobs) == 1
    )
    for rows, said in (
        ([["file"], ["a.png"]], "the first line of .* must name the columns"),
        ([["picture", "prompt"], ["a.png"]], "line 2 of .* has 1 cells, the first line has 2"),
        ([["picture", "picture"], ["a.png", "b"]], "the first line of .* has the column 'picture' twice; delete one"),
        ([["picture", "prompt", ""], ["a.png", "b", ""]], "column 3 of .* has no name in the first line; name it, or"),
        ([["picture", "colour"], ["a.png", "b"]], "must name the columns: .*; not 'colour'"),
        ([], "the first line"),
    ):
        with pytest.raises(InputError, match=said):
            read_jobs(table(tmp_path / "l.csv", *rows))
    (tmp_path / "l.csv").write_bytes("picture\n\xe4.png".encode("latin-1"))
    with pytest.raises(InputError, match="not text"):
        read_jobs(tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text('picture,prompt\na.png,"x', encoding="utf-8")
    with pytest.raises(InputError, match="is no CSV"):
        read_jobs(tmp_path / "l.csv")
    with pytest.raises(InputError, match="there is no folder and no"):
        read_jobs(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("caf\u00e9", "cafe\u0301", True), ("CAF\u00c9", "cafe\u0301", True), ("\u03c3", "\u03c2", True),
     ("stra\u00dfe", "STRASSE", True), ("cafe", "caf\u00e9", False), ("a1", "a2", False), ("console", "con_", False)],
)  # fmt: skip
def test_names_that_one_disk_takes_for_one_are_one(tmp_path, one, other, same):
    """Guards outputs on a Mac and on Windows: letters in another case, or put together of other signs, are the same."""
    records = [{"picture": f"{name}.png", "prompt": "a cat", "edit": "a dog"} for name in (one, other)]
    path = lines(tmp_path / "l.jsonl", *records)
    if not same:
        assert len(read_jobs(path).jobs) == 2
        return
    with pytest.raises(InputError, match=r"would both be written to .*; rename one of them, or give it another"):
        read_jobs(path)


def test_what_is_given_and_would_not_count_is_refused(tmp_path):
    """Guards --pictures beside a folder, and empty edits of the command line, also where each picture has its own."""
    (tmp_path / "a.png").touch()
    (tmp_path / "a.txt").write_text("a cat\na dog\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"is a folder of pictures itself, .* leave out --pictures"):
        read_jobs(tmp_path, pictures=tmp_path)
    for edits in (("",), ("a dog", " "), ("( )",)):
        with pytest.raises(InputError, match=r"^an edit is empty"):
            read_jobs(tmp_path, Defaults("a cat", edits))
    (tmp_path / "a.txt").write_text("a cat\n(a dog:9999)\n", encoding="utf-8")
    with pytest.raises(InputError, match=r'a\.png": the weight of "a dog" must be'):
        read_jobs(tmp_path)


PARTS = st.sampled_from(["a.png", "b.png", "inside", "link", "..", ".", "", "~", "~root", "\\", "C:"])
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
GOOD = {"prompt": "a cat", "edit": "a dog"}
ODD = st.fixed_dictionaries({}, optional={"name": NAMES, "prompt": st.text(max_size=9), "edit": st.text(max_size=9)})
ROWS = st.lists(st.tuples(NAMES, ODD).map(lambda row: {"picture": row[0], **row[1]}), min_size=1, max_size=2)


def test_no_list_does_more_than_be_refused(tmp_path):
    """Guards against lists of strangers: one sentence, or jobs whose pictures and results stay in the folder, or lie
    where its owner's own link leads and no higher."""
    folder, linked = tmp_path / "home" / "folder", tmp_path / "elsewhere" / "linked"
    for one in (folder / "inside", linked):
        one.mkdir(parents=True)
    (folder / "link").symlink_to(linked)
    absolute = NAMES.map(lambda name: [{"picture": f"{tmp_path}/{name}"}])
    read = []

    @settings(max_examples=300)
    @given(st.text(max_size=60) | ROWS | absolute, st.sampled_from([".csv", ".jsonl"]))
    @example([{"picture": "link/a.png"}], ".csv")
    @example([{"picture": "link/../a.png"}], ".jsonl")
    def look(rows, ending):
        path = folder / f"any{ending}"
        # a name of its own, or else one made of a bad picture's would be refused in its place
        jobs = [{"name": str(number), **GOOD, **row} for number, row in enumerate(rows) if isinstance(row, dict)]
        if isinstance(rows, str):
            path.write_text(rows, encoding="utf-8", errors="surrogatepass")
        elif ending == ".csv":
            table(path, list(jobs[0]), *(job.values() for job in jobs))
        else:
            lines(path, *jobs)
        try:
            found = read_jobs(path, Defaults("a", ("b",)))
        except InputError:
            return
        for job in found.jobs:
            picture, result = found.path(job).resolve(), (folder / job.name).resolve()
            read.append("folder" if picture.is_relative_to(folder) else "link")
            assert all(any(one.is_relative_to(place) for place in (folder, linked)) for one in (picture, result))

    look()
    assert read.count("folder") > 10 and "link" in read


@given(st.text("./\\\0a ~", max_size=8))
def test_a_picture_of_a_list_is_in_its_folder_or_refused(name):
    """Guards names of pictures: one that is taken is a file's, and so is what is written for it."""
    try:
        job = _job({"picture": name}, Defaults("a", ("b",)), Path("root"))
    except InputError:
        return
    assert Path(job.picture).name and Path(job.name).name
    assert Path(os.path.normpath(Path("root", job.picture))).is_relative_to("root")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(HUGE) | st.floats() | st.text(max_size=8),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3), max_leaves=5,
)  # fmt: skip


@given(st.sampled_from(sorted(OF_LIST)), JSON)
def test_a_setting_of_a_list_is_right_or_refused(name, value):
    """Guards settings in lists: whatever stands there, an ``EditSettings`` comes out or an InputError."""
    try:
        settings = chosen({name: read_value(name, value)})
    except InputError:
        return
    json.dumps(asdict(settings))


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_kind_of_a_line_brings_its_settings(tmp_path, ending):
    """Guards lists: what else a line or the options say counts on top of what suits the kind."""
    settings = {"kind": "background", "exclude_words": "cat", "exclude_end": "0.6"}
    path = tmp_path / f"list{ending}"
    if ending == ".csv":
        path.write_text(",".join(["picture", *settings]) + "\n" + ",".join(["a.png", *settings.values()]), "utf-8")
    else:
        lines(path, {"picture": "a.png", "settings": settings})
    (job,) = read_jobs(path, Defaults("a cat", ("a dog",), {"fresh_noise": 0.5, "kind": "add"})).jobs
    assert job.settings == replace(suited("background", exclude_words=["cat"]), exclude_end=0.6)
    with pytest.raises(InputError, match=r"line 1 of .*: kind must be one of replace, add, remove, background"):
        read_jobs(lines(tmp_path / "wrong.jsonl", {"picture": "a.png", "settings": {"kind": "move"}}))


def test_a_later_kind_counts_more_than_earlier_numbers():
    """Guards what wins: a kind of the line over numbers of the options, numbers beside it over the kind; words stay."""
    first = {"self_replace": 0.7, "blend_words": "cat", "kind": "add"}
    assert layered(first, {"kind": "remove"}) == {"blend_words": "cat", "kind": "remove"}
    assert layered(first, {"strength": 0.2}) == {"blend_words": "cat", "kind": "add", "strength": 0.2}
    assert layered(first, {"self_replace": 0.1}) == {**first, "self_replace": 0.1}
    # a strength for all is for those pictures whose kind has one
    assert layered({"strength": 0.2}, {"kind": "add"}) == {"kind": "add"}
    assert layered({"strength": 0.2}, {"kind": "replace"}) == {"kind": "replace", "strength": 0.2}
    assert layered({"kind": "add"}, {"kind": "remove", "self_replace": 0.1}) == {"kind": "remove", "self_replace": 0.1}


def test_a_job_is_the_same_after_its_record():
    settings = EditSettings(cross_replace=(0.1, 0.5), blend_words=["a"], weights={"b": 2.0}, word_windows={"c": 0.2})
    job = Job("x/a", "a.png", "é", ("b", "c"), settings)
    again = job_of(json.loads(json.dumps(job.record())))
    assert again.digest == job.digest and again.settings.blend_words == ["a"]
    assert Job("x/a", "a.png", "é", ("b", "d"), settings).digest != job.digest
    with pytest.raises(InputError):
        job_of({**job.record(), "name": "../x"})


def test_a_job_file_gives_defaults_and_options(tmp_path):
    record = {"format": "nullinv-batch-job", "version": 1, "prompt": "a cat", "edits": ["a dog"], "steps": 20,
              "settings": {"blend_words": "cat, dog"}, "model": "demo"}  # fmt: skip
    path = lines(tmp_path / "job.json", record)
    defaults, options = read_job_file(path)
    assert defaults == Defaults("a cat", ("a dog",), {"blend_words": "cat, dog"})
    assert options == {"steps": 20, "model": "demo"}
    for wrong in ({**record, "format": "x"}, {**record, "edits": 3}, {**record, "odd": 1},
                  {**record, "settings": {"mode": "x"}}):  # fmt: skip
        with pytest.raises(InputError, match=r"job\.json"):
            read_job_file(lines(path, wrong))


SIZES = st.sampled_from([None, (8, 8), (16, 8), (8, 16)])
LISTS = st.lists(st.tuples(SIZES, st.integers(0, 2)), max_size=30)


@given(LISTS, st.integers(1, 5))
def test_every_job_is_in_one_group_in_order_and_fits_it(kinds, batch):
    jobs = [Job(str(i), "x.png", "a", ("b",) * edits) for i, (_, edits) in enumerate(kinds)]
    sizes = {job.name: size for job, (size, _) in zip(jobs, kinds, strict=True)}
    groups = plan(jobs, list(sizes.values()), batch)
    places = [[int(job.name) for job in group.jobs] for group in groups]
    assert sorted(chain(*places)) == list(range(len(jobs)))
    assert all(group == sorted(group) for group in places) and [g[0] for g in places] == sorted(g[0] for g in places)
    for group in groups:
        assert len({len(job.edits) for job in group.jobs}) == 1 and {sizes[j.name] for j in group.jobs} == {group.size}
        assert 1 <= len(group.jobs) <= (1 if group.size is None else batch)
    # no more groups than needed
    kinds_there = {(size, edits) for size, edits in kinds if size}
    needed = sum(-(-kinds.count(kind) // batch) for kind in kinds_there) + sum(size is None for size, _ in kinds)
    assert len(groups) == needed


@given(LISTS, st.lists(st.tuples(SIZES, st.integers(0, 2)), max_size=5), st.integers(1, 4))
def test_a_longer_list_changes_no_full_group(kinds, more, batch):
    """Guards resuming: what comes later does not decide what is computed together before."""
    jobs = [Job(str(i), "x.png", "a", ("b",) * edits) for i, (_, edits) in enumerate([*kinds, *more])]
    sizes = [size for size, _ in [*kinds, *more]]
    first, both = plan(jobs[: len(kinds)], sizes[: len(kinds)], batch), plan(jobs, sizes, batch)
    assert all(group in both for group in first if len(group.jobs) == batch)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path):
    """Guards time: nobody may ever write to a pipe, be it a picture, its caption, or another program's file."""
    for name in ("cat.txt", "cat.png"):
        os.mkfifo(tmp_path / name)
    (job,) = (jobs := read_jobs(tmp_path, Defaults("a cat", ("a dog",)))).jobs
    assert str(_content(jobs, job)[0]).endswith("is not an ordinary file")
    for read in (size_on_disk, read_exchanged):
        with pytest.raises(InputError, match=r"is not an ordinary file$"):
            read(jobs.path(job))
