import json
import math

import pyarrow.parquet as pq
import pytest

from model_merge.results import Sums, add_up, derive, make_row, make_table, pool, read_results, write_table


def about(merge_id, domain):
    return {
        "merge_id": merge_id,
        "members": merge_id.split("+"),
        "weights": None,
        "mask": None,
        "method": "uniform",
        "domain": domain,
        "split": "val",
        "window": "olmo-eval",
        "dtype": "float32",
    }


def test_golden_metrics_follow_from_the_golden_sums(golden):
    results = json.loads((golden / "perplexity/ppl_subsets.json").read_text(encoding="utf-8"))["results"]
    assert len(results) == 14
    for result in results.values():
        documents = [
            Sums(
                d["sum_logits"],
                d["num_tokens"],
                d["num_tokens_all"],
                d["num_bytes"],
                d["num_chars"],
                d["num_words"],
                1,
            )
            for d in result["docs"]
        ]
        sums = add_up(documents)
        metrics = result["metrics"]
        for name, value in derive(sums).items():
            assert value == pytest.approx(metrics[name], rel=1e-12)
        assert (sums.num_tokens, sums.num_tokens_read, sums.num_docs) == (
            metrics["total_tokens"],
            metrics["total_tokens_input"],
            metrics["num_instances"],
        )


def test_a_perplexity_beyond_float64_is_1e30_as_upstream_writes_it():
    derived = derive(Sums(-1000.0, num_tokens=500, num_words=1, num_chars=1000, num_bytes=1000, num_docs=1))
    assert derived["ppl_word"] == 1e30
    assert derived["ppl_token"] == math.exp(2)


def test_nothing_but_empty_documents_has_no_bits_per_byte():
    assert derive(Sums(0.0, 0, 0, 0, 0, 1, 1)) == {
        "ppl_token": 1.0,
        "ppl_char": 1.0,
        "ppl_word": 1.0,
        "ppl_byte": 1.0,
        "bits_per_byte": None,
    }


def test_unknown_counts_stay_unknown_in_a_sum():
    assert add_up([Sums(-1, 2, num_bytes=4, num_docs=1), Sums(-2, 3, num_docs=1)]) == Sums(-3, 5, num_docs=2)


def test_pooled_domains_have_the_perplexity_of_all_their_tokens(tmp_path):
    one, two = Sums(-10.0, 4, 5, 8, 8, 2, 1), Sums(-2.0, 6, 7, 9, 9, 3, 2)
    rows = [make_row(about("a+b", domain), sums) for domain, sums in (("law", one), ("sea", two))]
    pooled = pool(make_table(rows), {"both": ["law", "sea"], "sea": ["sea"]}).to_pylist()
    assert [row["domain"] for row in pooled] == ["both", "sea"]
    assert pooled[0]["ppl_token"] == math.exp(12 / 10)
    assert (pooled[0]["num_docs"], pooled[0]["num_bytes"], pooled[0]["members"]) == (3, 17, ["a", "b"])
    assert pooled[1] == rows[1]
    with pytest.raises(ValueError, match=r"no results on \['air'\] of the group 'all'"):
        pool(make_table(rows), {"all": ["law", "air"]})


def test_a_written_table_is_read_back_and_names_its_format(tmp_path):
    table = make_table([make_row(about("a", "law"), Sums(-1.5, 3, 4, 5, 5, 1, 1))])
    write_table(table, tmp_path / "r.parquet")
    assert read_results(tmp_path / "r.parquet").to_pylist() == table.to_pylist()
    metadata = pq.read_schema(tmp_path / "r.parquet").metadata
    assert (metadata[b"format"], metadata[b"version"]) == (b"mixture-results", b"1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "mentions"}, "is a 'mentions' file, expected 'mixture-results'"),
        ({"version": "2"}, "has mixture-results version 2, this release reads 1"),
    ],
)
def test_other_formats_and_versions_are_refused(tmp_path, change, message):
    table = make_table([make_row(about("a", "law"), Sums())])
    pq.write_table(
        table.replace_schema_metadata({"format": "mixture-results", "version": "1"} | change), tmp_path / "r"
    )
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path / "r")


def test_a_file_that_is_no_table_and_one_without_the_columns_are_refused(tmp_path):
    (tmp_path / "text").write_text("no", encoding="utf-8")
    with pytest.raises(ValueError, match="is no Parquet file"):
        read_results(tmp_path / "text")
    pq.write_table(make_table([]).select(["domain", "members"]), tmp_path / "few")
    with pytest.raises(ValueError, match=r"lacks the columns \['sum_logprob', 'num_tokens'\]"):
        read_results(tmp_path / "few")
    with pytest.raises(FileNotFoundError, match="no mixture-results file"):
        read_results(tmp_path / "none")
