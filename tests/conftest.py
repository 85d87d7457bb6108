"""Settings of the property tests, and what is said of the ComfyUI suite: a suite that was skipped has not passed."""

import os

import pytest
from hypothesis import settings

from .comfyui.installation import find_comfyui, version_of

# no time limits on shared machines, the same cases on every CI run
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

SUITE = "tests/comfyui/"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """On CI, a test of a ComfyUI that is there may not be skipped."""
    report = yield
    if report.skipped and os.environ.get("CI") and item.nodeid.startswith(SUITE) and find_comfyui():
        report.outcome = "failed"
        report.longrepr = f"skipped, though there is a ComfyUI: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter):
    """Say in one line what the tests of the nodes ran against, or that they did not run."""
    reports = {
        kind: [r for r in terminalreporter.stats.get(kind, []) if r.nodeid.startswith(SUITE)]
        for kind in ("passed", "failed", "error", "skipped")
    }
    if not any(reports.values()):
        return
    try:
        comfyui = find_comfyui()
    except FileNotFoundError as error:
        terminalreporter.line(f"ComfyUI suite: NOT run, {error}", red=True)
        return
    if comfyui is None:
        terminalreporter.line("ComfyUI suite: NOT run, no ComfyUI found (make comfyui sets one up)", red=True)
        return
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in reports.items() if found)
    terminalreporter.line(f"ComfyUI suite: ran against {version_of(comfyui)} at {comfyui} ({counts})")
