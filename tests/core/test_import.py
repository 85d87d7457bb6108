"""What importing the package costs and gives."""

import subprocess
import sys
from pathlib import Path

import pytest

import nullinv_core
from nullinv_core import api

ROOT = Path(__file__).parents[2]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_the_package_offers_all_of_its_api():
    assert set(api.__all__) <= set(run("from nullinv_core import *; print(*dir())").split())
    assert all(getattr(nullinv_core, name) is getattr(api, name) for name in api.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert not hasattr(nullinv_core, "no_such_name")


def test_a_name_is_the_apis_and_nothing_is_loaded_for_others():
    """Guards what the import system asks for: modules and its own names are no names of the library."""
    assert all(nullinv_core.__getattr__(name) is getattr(api, name) for name in ("__all__", *api.__all__))
    for name, said in (("schedule", "^schedule$"), ("__wrapped__", "^__wrapped__$"), ("no_such_name", "no_such_name")):
        with pytest.raises(AttributeError, match=said):
            nullinv_core.__getattr__(name)


def test_the_command_line_answers_before_pytorch_is_loaded():
    for loaded in ("import nullinv_core.cli", "from nullinv_core import errors"):
        assert run(f"import sys; {loaded}; print('torch' in sys.modules)") == "False\n"
