import json

import pytest

from model_merge.windows import batch_windows, count_words, cut_document, pack

GOLDEN = "perplexity/ppl_subsets.json"


def test_golden_documents_are_cut_into_the_windows_of_olmo_eval(golden):
    documents = json.loads((golden / GOLDEN).read_text(encoding="utf-8"))["windows"]
    for domain in documents.values():
        for document in domain:
            windows = cut_document(document["tokens"], prefix=2, length=16)
            found = [[list(window.context), list(window.targets)] for window in windows]
            assert found == document["windows"]


@pytest.mark.parametrize("num_tokens", [0, 1, 4, 5, 6, 9, 10, 11, 23])
def test_every_token_is_scored_once_and_no_input_is_longer_than_allowed(num_tokens):
    tokens = list(range(100, 100 + num_tokens))
    windows = cut_document(tokens, prefix=7, length=5)
    assert [token for window in windows for token in window.targets] == tokens
    assert all(1 <= len(window.tokens) - 1 <= 5 for window in windows)
    assert all(len(window.tokens) - 1 == 5 for window in windows[1:])


def test_packed_chunks_leave_out_their_first_token_and_the_tail():
    windows = pack([[11, 12, 13], [], [14, 15, 16]], end=2, length=4)
    assert [(window.context, window.targets) for window in windows] == [
        ((11,), (12, 13, 2)),
        ((2,), (14, 15, 16)),
    ]


def test_batches_hold_windows_of_similar_length_and_not_too_many_tokens():
    windows = [
        window
        for number, length in enumerate([3, 9, 1, 6, 9])
        for window in cut_document(range(length), prefix=0, length=20, document=number)
    ]
    batches = batch_windows(windows, most_windows=3, most_tokens=20)
    assert [[window.document for window in batch] for batch in batches] == [[1, 4], [3, 0, 2]]
    assert [len(batch) for batch in batch_windows(windows, most_tokens=1)] == [1] * 5


def test_words_are_counted_as_re_split_does():
    assert [count_words(text) for text in ("a b", " a\tb\n", "", "  ", "a\u00a0b")] == [2, 4, 1, 2, 2]
