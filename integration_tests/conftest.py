import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# the modules of an experiment import each other by name, as they do when it is started
sys.path.insert(0, str(ROOT / "integration_tests" / "experiments" / "mixtures"))
sys.path.append(str(ROOT / "integration_tests" / "experiments" / "retrieval"))


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic_wikipedia():
    return load_tool("synthetic_wikipedia")


@pytest.fixture(scope="session")
def quickstart():
    return load_tool("quickstart")


@pytest.fixture(scope="session")
def encyclopedia(synthetic_wikipedia, tmp_path_factory):
    """A small synthetic encyclopedia: folder with dump, gold mentions and probes."""
    out = tmp_path_factory.mktemp("encyclopedia")
    synthetic_wikipedia.write_encyclopedia(out, num_facts=60, seed=3)
    return out
