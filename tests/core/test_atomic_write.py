"""Files: whole or not at all, whoever else writes, is killed or plants a link."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nullinv_core.errors import InputError
from nullinv_core.files import atomic_write
from nullinv_core.files.atomic_write import check_outputs, check_suffix, check_writable, numbered_file, whole_file

# by its whole name, under which the other processes find it
from tests.fuzz.concurrency import PROCESSES, crowd

NUMBERING = """
import sys
from pathlib import Path
from nullinv_core.files.atomic_write import numbered_file
for i in range(int(sys.argv[3])):
    print(numbered_file(Path(sys.argv[1]), ".txt", lambda place: place.write_text(f"{sys.argv[2]} {i}")).name)
"""
HANGING = """
import sys, time
from pathlib import Path
from nullinv_core.files.atomic_write import whole_file
with whole_file(Path(sys.argv[1])) as place:
    place.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def write(path, text):
    with whole_file(path) as place:
        place.write_text(text)


def test_what_is_written_appears_under_its_name_alone(tmp_path):
    write(tmp_path / "a.txt", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "new")]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with whole_file(path) as place:
            place.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_is_replaced_and_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "a").symlink_to(victim)
    write(tmp_path / "a", "new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "a").is_symlink()


def test_threads_that_write_one_file_leave_it_whole(tmp_path):
    path = tmp_path / "a"
    texts = {letter * 200_000 for letter in "abc"}
    write(path, min(texts))
    stop = threading.Event()

    def read():
        seen = set()
        while not stop.is_set():
            seen.add(path.read_text())
        return seen

    def save(text):
        for _ in range(40):
            write(path, text)

    with ThreadPoolExecutor() as pool:
        reader, writers = pool.submit(read), [pool.submit(save, text) for text in texts]
        try:
            for writer in writers:
                writer.result()
        finally:
            stop.set()
    assert reader.result() <= texts
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_processes_that_number_files_lose_none(tmp_path):
    each, processes = 25, [start(NUMBERING, tmp_path / "photo", name, 25) for name in "abcd"]
    names = [name for process in processes for name in process.communicate(timeout=120)[0].split()]
    assert sorted(names) == [f"photo_{i:05d}.txt" for i in range(1, 4 * each + 1)]
    assert {p.name for p in tmp_path.iterdir()} == set(names)
    assert len({(tmp_path / name).read_text() for name in names}) == len(names)


def test_many_processes_at_one_name():
    """Guards writers, readers and numbered saves at once: nothing torn, nothing lost, nothing left over by a kill."""
    found = crowd(saves=30, kills=4)
    assert found.saves >= 30 and found.reads >= PROCESSES


def test_numbers_go_on_after_the_first_gap_on_a_disk_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "photo_00001.txt").write_text("theirs")
    made = [numbered_file(tmp_path / "photo", ".txt", lambda place: place.write_text("ours")).name for _ in range(2)]
    assert made == ["photo_00002.txt", "photo_00003.txt"]
    assert (tmp_path / "photo_00001.txt").read_text() == "theirs"
    assert {p.read_text() for p in tmp_path.glob("photo_0000[23].txt")} == {"ours"}


def test_what_a_killed_process_left_goes_with_the_next_file_and_a_living_one_stays(tmp_path):
    killed, living = (start(HANGING, tmp_path / name) for name in ("killed", "living"))
    for process in (killed, living):
        assert process.stdout.readline() == "writing\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    hidden = set(tmp_path.iterdir())
    assert len(hidden) == 2
    write(tmp_path / "a", "x")
    left = set(tmp_path.iterdir()) & hidden
    living.kill()
    living.wait()
    assert [(folder / "content").read_text() for folder in left] == ["half"]


def test_a_process_killed_before_its_lock_leaves_nothing(tmp_path):
    """Guards the moments before the lock is made and after it is gone."""
    (tmp_path / f"{atomic_write.PREFIX}empty{atomic_write.SUFFIX}").mkdir()
    write(tmp_path / "a", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_whose_folder_was_swept_takes_another(tmp_path, monkeypatch):
    """Guards the sweep of another process between a new folder and its lock."""
    made, mkdir = [], Path.mkdir

    def swept(path, *arguments, **options):
        mkdir(path, *arguments, **options)
        made.append(path)
        if len(made) == 1:
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", swept)
    write(tmp_path / "a", "x")
    assert len(made) == 2 and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_lock_goes_last(tmp_path, monkeypatch):
    """Guards a kill in the middle of tidying up: what is left is empty, or has its lock."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", atomic_write.LOCK, "z"):
        (folder / name).touch()
    seen = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path: (unlink(path), seen.append(os.listdir(folder))))
    atomic_write._remove(folder)
    assert not folder.exists() and len(seen) == 2 and all(atomic_write.LOCK in left for left in seen)


@pytest.mark.parametrize("locks", [True, False])
def test_without_a_lock_only_age_tells_what_was_left(tmp_path, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(atomic_write, "_locked", lambda file: None)
    for name, age in (("young", 60), ("old", 2 * atomic_write.ABANDONED)):
        folder = tmp_path / f"{atomic_write.PREFIX}{name}{atomic_write.SUFFIX}"
        folder.mkdir()
        (folder / ("content" if locks else atomic_write.LOCK)).touch()
        os.utime(folder, (time.time() - age,) * 2)
    write(tmp_path / "a", "x")
    assert {p.name for p in tmp_path.iterdir()} == {"a", f"{atomic_write.PREFIX}young{atomic_write.SUFFIX}"}


@pytest.mark.parametrize("check", [check_writable, lambda path: write(path, "x"), lambda p: check_outputs([p], [], "")])
def test_what_is_no_ordinary_file_stays(tmp_path, check):
    """Guards pipes and devices, which the superuser's programs would replace like any file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/full")
    for name in ("pipe", "device"):
        with pytest.raises(InputError, match=f'^cannot write "{tmp_path / name}": it is not an ordinary file$'):
            check(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "device").is_symlink() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("check", [check_writable, lambda path: check_outputs([path], [], "")])
@pytest.mark.parametrize("name", ["\ud800", "a\0b", "a" * 300])
def test_a_name_that_is_none_is_a_sentence(tmp_path, name, check):
    """Guards the order of the checks: whether a name can be one comes before what it leads to."""
    with pytest.raises(InputError, match="cannot write"):
        check(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a" * 300, "File name too long"), ("missing/a", "does not exist"), (".", "is a folder"), ("a\0b", "null")],
)
def test_what_takes_no_file_is_told_before_the_work(tmp_path, name, reason):
    with pytest.raises(InputError, match=reason) as told:
        check_writable(tmp_path / name)
    assert str(told.value).startswith(f'cannot write "{tmp_path / name}"'[:70])
    assert len(str(told.value)) < 250
    assert not any(tmp_path.iterdir())


def test_a_folder_that_takes_no_file_is_told_before_the_work(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="Read-only"):
        check_writable(tmp_path / "a")


@pytest.fixture
def read(tmp_path):
    """What a command reads: a photo, and a folder with a file in it; and other names of both."""
    (tmp_path / "photo.png").write_text("photo")
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "deep" / "w.png").write_text("weights")
    (tmp_path / "soft.png").symlink_to("photo.png")
    os.link(tmp_path / "photo.png", tmp_path / "hard.png")
    (tmp_path / "same").symlink_to("model")
    (tmp_path / "other.png").write_text("other")
    return [tmp_path / "missing.png", tmp_path / "photo.png", tmp_path / "same"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("photo.png", "photo.png"), ("soft.png", "photo.png"), ("hard.png", "photo.png"),
        ("model/../photo.png", "photo.png"), ("model/deep/w.png", "same"), ("same/deep/w.png", "same"),
    ],
)  # fmt: skip
def test_what_is_read_is_not_written_over_by_any_name(tmp_path, read, name, source):
    """Guards the user's files behind links, among other results too, and names both."""
    path, own = tmp_path / name, tmp_path / source
    for outputs in ([path], [tmp_path / "new.png", path], [tmp_path / "other.png", path]):
        with pytest.raises(InputError) as told:
            check_outputs(outputs, read, ".png")
        assert str(told.value) == f'"{path}" would be written over what is read from "{own}"; give another name'


def test_results_have_places_of_their_own(tmp_path, read):
    """Guards results against one another, by whatever name; old results and new files are taken."""
    check_outputs([tmp_path / "other.png", tmp_path / "new.png", tmp_path / "model" / "new.PNG"], read, ".png")
    for twice in ("new.png", "model/../new.png"):
        with pytest.raises(InputError, match=r"two pictures would be written to .*new.png"):
            check_outputs([tmp_path / "new.png", tmp_path / "other.png", tmp_path / twice], [], ".png")
    with pytest.raises(InputError, match="two pictures"):
        check_outputs([tmp_path / "soft.png", tmp_path / "photo.png"], [], ".png")
    for name in ("new.jpg", "new", "png"):
        with pytest.raises(InputError, match=f'{name}" must end in .png'):
            check_suffix(tmp_path / name, ".png")


@pytest.mark.parametrize(
    "work", [check_writable, lambda path: write(path, "x"), lambda path: numbered_file(path, "", lambda place: None)]
)
def test_a_disk_that_takes_nothing_is_named_with_its_file(tmp_path, monkeypatch, work):
    """Guards the message of every way to write: which file, and what the system says."""

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=f'^cannot write "{tmp_path / "a"}.*": No space left on device$'):
        work(tmp_path / "a")


@pytest.mark.parametrize("links", [True, False])
def test_a_number_that_another_takes_in_between_is_theirs(tmp_path, monkeypatch, links):
    """Guards the moment between looking and writing, on disks with links and without."""
    (tmp_path / "photo_00001.txt").write_text("theirs")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    made = numbered_file(tmp_path / "photo", ".txt", lambda place: place.write_text("ours"))
    assert made.name == "photo_00002.txt" and made.read_text() == "ours"
    assert (tmp_path / "photo_00001.txt").read_text() == "theirs"


def test_what_only_looks_like_ours_stays(tmp_path):
    """Guards other programs' files: a name that begins or ends as ours do, and a link to somebody's folder."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / atomic_write.LOCK).touch()
    names = [f"{atomic_write.PREFIX}x", f"x{atomic_write.SUFFIX}"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / atomic_write.LOCK).touch()
    (tmp_path / f"{atomic_write.PREFIX}link{atomic_write.SUFFIX}").symlink_to("victim")
    before = set(tmp_path.rglob("*"))
    write(tmp_path / "a", "x")
    assert set(tmp_path.rglob("*")) == before | {tmp_path / "a"}
