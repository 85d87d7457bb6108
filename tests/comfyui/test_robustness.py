"""What can go wrong, with fewer cases than ``python -m tests.comfyui.robustness`` has."""

import sys

import pytest

from . import robustness


@pytest.mark.parametrize(("how", "every"), [("memory", 3), ("cancel", 4)])
def test_a_failure_at_any_prediction_leaves_the_server_as_it_was(comfy, how, every):
    """Guards memory that runs out and the stop button: the models stay bit-identical, the next run works."""
    robustness.faults(comfy, how, every)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a running process's files")
def test_a_full_disk_leaves_no_half_file(comfy):
    """Guards saving: a sentence, and nothing that looks like an inversion."""
    robustness.full_disk(comfy)


def test_a_killed_process_leaves_a_whole_file():
    """Guards saving: whatever moment the power goes at, one of the two inversions is there, to the bit."""
    assert robustness.killed_saves(4)["in_the_middle_of_writing"] > 0


def test_random_inputs_end_in_words(comfy):
    """Guards the edges of all nodes: no traceback that says nothing, whatever is connected or written."""
    ends = robustness.fuzz_nodes(comfy, 40)
    assert len(ends) == 3


def test_memory_stays_flat(comfy):
    """Guards against leaks of a model, a graph, a picture or a latent a run: 20 pictures are 3.75 MB of tensors, 20
    latents 0.08 MB. Of other things the system may have room in memory that it keeps; without a leak 1 MB is added."""
    found = robustness.leaks(comfy, 20)
    assert found["megabytes_last"] - found["megabytes_first"] < 3, found
    assert found["more_megabytes_of_tensors"] < 0.05, found
