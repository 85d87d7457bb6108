"""Settings of the property tests, and what is said of the ComfyUI suite: a suite that was skipped has not passed."""

import os

import pytest
from hypothesis import Phase, settings

from .comfyui.installation import find_comfyui, version_of

# no time limits on shared machines, the same cases on every CI run
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
# that a mutant fails is all that is asked
settings.register_profile(
    "mutants", deadline=None, derandomize=True, database=None, report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip
settings.load_profile("ci" if os.environ.get("CI") else "default")

SUITE = "tests/comfyui/"
THIS_VERSION = "this ComfyUI "
"""How a reason begins that a newer or an older ComfyUI would not give."""
FULL_SIZE = {f"{SUITE}test_models.py", f"{SUITE}test_page.py"}
"""Files that load models of full size, of gigabytes each."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """For ``--dist loadfile``: a file goes to one process whole, and one process alone holds models of full size."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFileAndSize(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "full size" if file in FULL_SIZE else file

    return ByFileAndSize(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """On CI, a test of a ComfyUI that is there may not be skipped, but where that version has not what it is about."""
    report = yield
    of_version = f"Skipped: {THIS_VERSION}" in str(report.longrepr)
    if report.skipped and not of_version and os.environ.get("CI") and item.nodeid.startswith(SUITE) and find_comfyui():
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
