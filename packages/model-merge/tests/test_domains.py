import gzip
import random

import pyarrow as pa
import pytest

from model_merge.domains import Skipped, find_domains, read_domain


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(content)


def lines(*texts):
    return "".join(f'{{"text": "{text}"}}\n' for text in texts).encode()


def test_files_of_every_kind_are_read_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "law/b.jsonl.zst", lines("three"))
    write(tmp_path / "law/a/x.json.gz", lines("one", "two"))
    write(tmp_path / "law/c.jsonl", lines("four"))
    write(tmp_path / "law/notes.txt", b"no document")
    (domain,) = find_domains(tmp_path)
    found = read_domain(domain)
    assert (found.name, found.split, found.texts) == ("law", "", ["one", "two", "three", "four"])


def test_a_split_is_a_folder_of_that_very_name(tmp_path):
    """The peers look for 'val' anywhere in the path, so that '/eval/train' counts as validation."""
    root = tmp_path / "evaluation"
    write(root / "law/train/a.jsonl", lines("train"))
    write(root / "law/val/a.jsonl", lines("val"))
    assert [read_domain(domain).texts for domain in find_domains(root, "val")] == [["val"]]
    assert [read_domain(domain).texts for domain in find_domains(root, "train")] == [["train"]]


def test_domains_with_splits_need_one_chosen(tmp_path):
    write(tmp_path / "law/val/a.jsonl", lines("val"))
    with pytest.raises(ValueError, match=r"has the splits \['val'\]: choose one with --split"):
        find_domains(tmp_path)


def test_a_domain_without_the_split_is_an_error(tmp_path):
    write(tmp_path / "law/val/a.jsonl", lines("val"))
    write(tmp_path / "sea/train/a.jsonl", lines("train"))
    with pytest.raises(FileNotFoundError, match=r"sea.* has no .jsonl or .json files for split 'val'"):
        find_domains(tmp_path, "val")


def test_files_in_the_folder_itself_are_a_domain_of_its_name(tmp_path):
    write(tmp_path / "texts/a.jsonl", lines("one"))
    assert [domain.name for domain in find_domains(tmp_path / "texts")] == ["texts"]


@pytest.mark.parametrize("missing", ["nothing", "empty"])
def test_no_folder_and_no_files_are_told(tmp_path, missing):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no folder of domains|no .jsonl"):
        find_domains(tmp_path / missing)


def test_lines_that_are_no_documents_are_listed_and_empty_documents_count(tmp_path):
    good, bad = b'{"text": "good"}\n\n', b'{bad\n[1]\n{"id": 1}\n{"text": 5}\n{"text": ""}\n\xff\xfe\n'
    write(tmp_path / "law/a.jsonl", b"\xef\xbb\xbf" + good + bad + b'{"doc": "other key"}\n')
    found = read_domain(*find_domains(tmp_path))
    assert found.texts == ["good", "", "other key"]
    assert found.skipped == [
        Skipped("law", "a.jsonl line 3", "bad JSON"),
        Skipped("law", "a.jsonl line 4", "bad JSON"),
        Skipped("law", "a.jsonl line 5", "missing text"),
        Skipped("law", "a.jsonl line 6", "missing text"),
        Skipped("law", "a.jsonl line 7", "empty text"),
        Skipped("law", "a.jsonl line 8", "not UTF-8"),
    ]


def test_more_documents_than_the_limit_are_sampled_as_upstream_samples_them(tmp_path):
    texts = [f"text {number}" for number in range(1500)]
    write(tmp_path / "law/a.jsonl", lines(*texts))
    found = read_domain(*find_domains(tmp_path))
    assert found.texts == random.Random(1234).sample(texts, 1000)
    assert found.num_found == 1500
    assert read_domain(*find_domains(tmp_path), limit=None).texts == texts


def test_a_file_that_is_cut_off_is_an_error(tmp_path):
    write(tmp_path / "law/a.jsonl.gz", lines("one", "two"))
    whole = (tmp_path / "law/a.jsonl.gz").read_bytes()
    (tmp_path / "law/a.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="is damaged or cut off"):
        read_domain(*find_domains(tmp_path))


def test_the_digest_sees_texts_and_their_order(tmp_path):
    digests = set()
    for number, texts in enumerate([("ab", "c"), ("a", "bc"), ("c", "ab"), ("ab", "c")]):
        write(tmp_path / f"{number}/law/a.jsonl", lines(*texts))
        digests.add(read_domain(*find_domains(tmp_path / str(number))).sha256)
    assert len(digests) == 3
