"""The benchmark of speed: methods that were run on fewer scenes, and where figures go."""

from benchmarks.common import RESULTS
from benchmarks.speed import Row, compared, default_out, marks, table_of

RECONSTRUCTION = {1: 30.0, 2: 38.0, 3: 40.0}


def rows_of(method, seeds):
    """Rows of a method that costs and reconstructs the same as any other."""
    return [Row(method, seed, 100, 2.0 * seed, RECONSTRUCTION[seed], None) for seed in seeds]


def test_equal_methods_are_equal_however_many_scenes_they_have():
    """Guards plot and table: a method's median over its three scenes stood beside another's over eight."""
    rows = [*rows_of("paper", (1, 2, 3)), *rows_of("peer", (2, 3)), *rows_of("ours", (1, 2, 3))]
    assert marks(rows) == dict.fromkeys(("paper", "peer", "ours"), (100.0, 39.0))
    assert [(name, len(own)) for name, own in compared(rows, "paper")] == [
        ("paper", 3), ("ours", 3), ("paper, the same scenes", 2), ("peer", 2)
    ]  # fmt: skip
    lines = [line.split(" | ", 1) for line in table_of(rows, "paper").splitlines()[2:]]
    assert [name for name, _ in lines] == ["| paper (3)", "| ours (3)", "| paper, the same scenes (2)", "| peer (2)"]
    figures = [rest for _, rest in lines]
    assert figures[0] == figures[1] != figures[2] == figures[3]


def test_methods_without_a_scene_in_common_are_still_drawn():
    """Guards a run that was stopped early."""
    assert marks([*rows_of("a", (1,)), *rows_of("b", (3,))]) == {"a": (100.0, 30.0), "b": (100.0, 40.0)}


def test_each_device_has_a_file_of_its_own():
    """Guards a CPU's figures: the page's command for a GPU wrote over them."""
    found = [default_out(arch, device) for arch in ("demo", "sd15") for device in ("cpu", "cuda", "cuda:1")]
    assert len(set(found)) == 6
    assert (found[0], found[3]) == (RESULTS / "speed.json", RESULTS / "speed_sd15.json")
