import inspect

import pytest

from entity_index import EntityIndex, open_index
from entity_index.backend import Backend, is_address, open_backend


def test_a_folder_is_opened_as_the_embedded_index(make_index, row):
    index = make_index(["Ada"], [row(0, 0, 3, "Q1", hyperlink=1.0)])
    opened = open_backend(str(index.path))
    assert isinstance(opened, EntityIndex)
    assert (opened.reference, opened.num_chunks) == (str(index.path), 1)
    assert opened.store_sha256 == open_index(index.path).meta["store_sha256"]


def test_the_embedded_index_has_everything_that_a_backend_must_have():
    for name, wanted in vars(Backend).items():
        if not name.startswith("_") and callable(wanted):
            assert inspect.signature(getattr(EntityIndex, name)) == inspect.signature(wanted), name


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("http://127.0.0.1:9200/enwiki", True),
        ("HTTPS://host/enwiki", True),
        ("data/index", False),
        ("http", False),
        ("/data/http:/x", False),
    ],
)
def test_an_address_is_told_from_a_folder(reference, expected):
    assert is_address(reference) is expected
