import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entity_index.strings import open_strings, write_strings

texts = st.text(st.sampled_from("ab\u00e9\u6771\U0001f600\x00"), max_size=6)
long_texts = st.builds(lambda text, times: text * times, texts, st.sampled_from([1, 1, 1, 40, 3000]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strings")


def stored(folder, strings):
    return open_strings(folder, "x", write_strings(folder, "x", pa.array(strings, pa.string())))


@settings(deadline=None)
@given(strings=st.lists(long_texts, max_size=60))
def test_strings_are_read_as_written(folder, strings):
    column = stored(folder, strings)
    assert (len(column), list(column)) == (len(strings), strings)
    assert [column[i] for i in range(len(strings))] == strings
    with pytest.raises(IndexError, match=f"there are {len(strings)}"):
        column[len(strings)]


@settings(deadline=None)
@given(strings=st.sets(long_texts, max_size=60), sought=texts)
def test_sorted_strings_are_found(folder, strings, sought):
    ordered = sorted(strings, key=str.encode)
    column = stored(folder, ordered)
    assert [column.find(string) for string in ordered] == list(range(len(ordered)))
    assert column.find(sought) == (ordered.index(sought) if sought in strings else None)
    start, end = column.range_of(sought)
    assert ordered[start:end] == [sought] * (sought in strings)
    start, end = column.prefix_range(sought)
    assert ordered[start:end] == [string for string in ordered if string.startswith(sought)]


@settings(deadline=None)
@given(strings=st.sets(st.text("abc", min_size=1, max_size=5), min_size=20, max_size=200))
def test_few_strings_kept_in_memory_find_the_same(folder, strings):
    ordered = sorted(strings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("entity_index.strings.KNOWN", 2)
        column = stored(folder, ordered)
        assert [column.find(string) for string in ordered] == list(range(len(ordered)))


def test_a_column_takes_null_for_the_empty_string(folder):
    assert list(stored(folder, ["a", None, "b"])) == ["a", "", "b"]


def test_many_strings_are_written_in_pieces(folder, monkeypatch):
    monkeypatch.setattr("entity_index.strings.PIECE", 32)
    strings = [f"Q{number:05}" for number in range(1000)]
    assert list(stored(folder, strings)) == strings
