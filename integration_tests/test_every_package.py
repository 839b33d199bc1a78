import importlib

import pytest

PACKAGES = [
    "entity_annotate",
    "chunk_provenance",
    "entity_index",
    "olmo_trainer",
    "linear_attn",
    "cocomix",
    "model_merge",
    "knowledge_entropy",
]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_package_has_a_command(name):
    assert callable(importlib.import_module(f"{name}.cli").main)
