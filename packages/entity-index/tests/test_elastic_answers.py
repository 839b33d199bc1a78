"""What a server answers at the edges: many hits, many mentions, strings, commands, what is none of ours."""

import re
import shlex

import pytest
from elasticsearch import Elasticsearch

from entity_index import Entity, Phrase, Query, Thresholds, name_phrases, searchable_aliases
from entity_index.backend import check_client, open_backend
from entity_index.elastic.index import ElasticIndex, split_reference

TEXTS = [
    "Ada Lovelace met Babbage. Ada Lovelace wrote.",
    "She\nwrote.",
    "Babbage alone.",
    "ADA LOVELACE is a ship.",
    "Ada Lovelace's notes, and Ada Lovelace\u2019s letters",
    "The Countess of Lovelace; UK",
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, elastic_pair, row):
    mentions = [
        row(0, 0, 12, "Q1", name="Ada Lovelace", hyperlink=1.0),
        row(0, 17, 24, "Q2", name="Babbage", entity_linking=0.7),
        row(1, 0, 3, "Q1", name="Ada Lovelace", coref_cluster=0.8),
        row(2, 0, 7, "Q2", name="Babbage", hyperlink=1.0),
        row(3, 0, 12, "Q3", name="Ada Lovelace", hyperlink=1.0),
    ]
    titles = ["Meeting", None, "Inventor", "Ship", None, "Peers"]
    return elastic_pair(tmp_path_factory.mktemp("pair"), TEXTS, mentions, titles)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "query INDEX 'name:ada lovelace'",
        "query INDEX Q1 --string WROTE --json",
        "query INDEX Q1 Q2 --any --not Q3",
        "query INDEX Q1 --min-score coref_cluster=none --json",
        "query INDEX Q0",
        "names INDEX ada --prefix",
        "names INDEX nobody",
        "chunk INDEX 0",
        "chunk INDEX 4 --json",
        "compare INDEX Q2 --examples 0",
        "compare INDEX --case-sensitive --examples 0 --json",
    ],
)
def test_a_command_says_the_same_of_a_folder_and_of_a_server(run, pair, command):
    expected, found = (run(*shlex.split(command.replace("INDEX", index.reference))) for index in pair)
    assert found == expected


@pytest.mark.slow
def test_more_hits_than_the_server_gives_at_once_all_come(
    elasticsearch_url, raw_requests, lment_documents, row
):
    count = 12_345
    rows = [row(i, 0, 3, "Q1", surface="Ada", hyperlink=1.0, score=(i * 7 % 10) / 10) for i in range(count)]
    documents = [lment_documents(["Ada"], [{**one, "chunk_id": 0, "row": 0}])[0] for one in rows]
    for i, document in enumerate(documents):
        document["chunk_id"] = i
    raw_requests.write_lment(elasticsearch_url, "many", documents)
    index = open_backend(f"{elasticsearch_url}/many")
    ranked = sorted(range(count), key=lambda i: (-(i * 7 % 10), i))
    assert index.chunk_ids(Entity("Q1")).tolist() == list(range(count))
    assert index.chunk_ids(~Phrase("bob")).tolist() == list(range(count))
    for limit in (None, 10_001, 1001, 1000):
        result = index.search(Query(Entity("Q1"), limit))
        assert result.total == count
        assert [hit.chunk_id for hit in result.hits] == ranked[:limit]
    mixed = index.search(Query(Phrase("Ada", case_sensitive=True) & Phrase("ADA"), limit=3))
    assert (mixed.total, [hit.chunk_id for hit in mixed.hits]) == (count, [0, 1, 2])


@pytest.mark.slow
def test_a_chunk_with_more_mentions_than_inner_hits_has_all_of_them(tmp_path, elastic_pair, row):
    mentions = [
        row(0, i, i + 2, "Q1", name=f"Name {i % 7}", hyperlink=1.0, score=i / 400) for i in range(390)
    ]
    mentions += [row(0, i, i + 2, "Q2", entity_linking=0.6) for i in range(390)]  # a second candidate of each
    embedded, elastic = elastic_pair(tmp_path, ["x " * 200], mentions)
    found = elastic.search(Query(Entity("Q1") & Entity("Q2")))
    assert len(found.hits[0].mentions) == 780
    assert found == embedded.search(Query(Entity("Q1") & Entity("Q2")))
    assert elastic.names_of("Q1") == embedded.names_of("Q1")


@pytest.mark.slow
def test_strings_alone_are_ranked_as_the_server_ranks_them(pair, raw_requests):
    _, elastic = pair
    where = name_phrases(["Ada Lovelace"])
    result = elastic.search(Query(where))
    variants = ("Ada Lovelace", "Ada Lovelace's", "Ada Lovelace\u2019s")
    asked = {"query": {"bool": {"should": [{"match_phrase": {"text": text}} for text in variants]}}}
    answer = raw_requests.ask(f"{elastic.reference}/_search", "POST", asked)["hits"]
    expected = [(int(hit["_id"]), hit["_score"]) for hit in answer["hits"]]
    assert [hit.chunk_id for hit in result.hits] == [chunk_id for chunk_id, _ in expected] == [4, 0, 3]
    assert [hit.score for hit in result.hits] == pytest.approx([score for _, score in expected])
    assert [len(hit.phrases) for hit in result.hits] == [2, 2, 1]


@pytest.mark.slow
def test_names_and_aliases_as_strings_find_the_same_chunks_on_both(pair):
    embedded, elastic = pair
    aliases = searchable_aliases(["Countess of Lovelace", "Ada", "UK", "AL"])
    assert aliases == ["Countess of Lovelace", "UK"]
    for case_sensitive in (False, True):
        for names in (["Ada Lovelace"], ["Ada Lovelace", *aliases]):
            where = name_phrases(names, case_sensitive=case_sensitive)
            expected, found = (index.search(Query(where, None)) for index in (embedded, elastic))
            assert found.total == expected.total == (3 if len(names) == 1 else 4) - case_sensitive
            assert {hit.chunk_id: hit.phrases for hit in found.hits} == {
                hit.chunk_id: hit.phrases for hit in expected.hits
            }


@pytest.mark.slow
def test_our_spans_are_the_servers_highlights(pair, raw_requests):
    _, elastic = pair
    phrase = Phrase("ada lovelace")
    asked = {
        "query": {"match_phrase": {"text": phrase.text}},
        "highlight": {"fields": {"text": {"number_of_fragments": 0}}},
    }
    places = {hit.chunk_id: list(hit.phrases) for hit in elastic.search(Query(phrase)).hits}
    answer = raw_requests.ask(f"{elastic.reference}/_search", "POST", asked)["hits"]["hits"]
    assert {int(hit["_id"]): emphasised(hit["highlight"]["text"][0]) for hit in answer} == places


def emphasised(text):
    """Spans between <em> and </em>, counted without these."""
    return [
        (match.start() - number * len("<em></em>"), match.end() - (number + 1) * len("<em></em>"))
        for number, match in enumerate(re.finditer("<em>.*?</em>", text))
    ]


@pytest.mark.slow
def test_a_chunk_that_is_not_there_is_said(pair):
    _, elastic = pair
    for chunk_id in (6, -1, 1 << 40):
        with pytest.raises(ValueError, match=f"no chunk {chunk_id} in '.*': it has 6 chunks"):
            elastic.mentions_of(chunk_id)


MAPPING = {"properties": {"text": {"type": "text"}, "chunk_id": {"type": "keyword"}}}


@pytest.mark.slow
def test_an_index_that_is_none_of_ours_is_refused_in_a_sentence(run, pair, elasticsearch_url, raw_requests):
    ask, (_, elastic) = raw_requests.ask, pair
    ask(f"{elasticsearch_url}/books", "PUT", {"mappings": MAPPING})
    one, two = elastic.name, f"{elastic.name}_case_sensitive"
    both = [{"add": {"index": index, "alias": "both"}} for index in (one, two)]
    ask(f"{elasticsearch_url}/_aliases", "POST", {"actions": both})
    refused = {
        "books": "'books' is no entity index: its field 'chunk_id' is of type 'keyword', expected 'integer'",
        "both": f"'both' stands for 2 indices ({one}, {two}): name one",
        two: f"{two!r} is the case-sensitive one of a pair of indices: give {one!r}",
        "enwiki9": "there is no index 'enwiki9' on the server, only ",
        "a*": "'a*' is no name of an index",
        "a,b": "'a,b' is no name of an index",
        "_all": "'_all' is no name of an index",
        "%2A": "'%2A' is no name of an index",
        "Upper": "'Upper' is no name of an index",
        "": f"'{elasticsearch_url}/' is not SERVER/INDEX, such as http://localhost:9200/enwiki",
        "a/b": f"'{elasticsearch_url}/a/b' is not SERVER/INDEX",
    }
    for name, message in refused.items():
        code, out, words = run("query", f"{elasticsearch_url}/{name}", "Q1")
        assert (code, out, words.count("\n")) == (2, "", 1)
        assert words.startswith(f"error: {message}")


@pytest.mark.slow
def test_without_the_twin_only_case_sensitive_strings_are_refused(pair, elasticsearch_url, raw_requests):
    raw_requests.write_lment(elasticsearch_url, "lonely", [])
    raw_requests.ask(f"{elasticsearch_url}/lonely_case_sensitive", "DELETE")
    index = open_backend(f"{elasticsearch_url}/lonely")
    assert index.search(Query(Entity("Q1") | Phrase("Ada"))).total == 0
    assert index.names("ada") == index.names("", prefix=True) == []
    with pytest.raises(ValueError, match="there is no index 'lonely_case_sensitive' on the server, only "):
        index.count(Phrase("Ada", case_sensitive=True))


@pytest.mark.slow
def test_thresholds_of_zero_count_missing_scores(elasticsearch_url, raw_requests):
    """As in the embedded index a missing score is 0, also of an index that someone else wrote."""
    candidate = {"qid": "Q1", "aggregated_score": 0.25, "scores_by_source": {"hyperlinks": 0.5}}
    entities = [{"char_start": 0, "char_end": 3, "text_mention": "Ada", "candidates": [candidate]}]
    document = {"chunk_id": 0, "text": "Ada", "entities": entities}
    raw_requests.write_lment(elasticsearch_url, "sparse", [document])
    index = open_backend(f"{elasticsearch_url}/sparse")
    assert index.count(Entity("Q1", Thresholds(coref=0))) == 1
    assert index.count(Entity("Q1", Thresholds(coref=0.01))) == 0
    (hit,) = index.search(Query(Entity("Q1", Thresholds(hyperlink=0.5)))).hits
    assert (hit.score, hit.mentions[0].hyperlink, hit.mentions[0].coref) == (0.25, 0.5, 0.0)
    assert (index.chunk(0).doc_id, index.name_of("Q1")) == ("", None)


def test_a_server_that_went_away_is_said_in_a_sentence():
    reference = "http://127.0.0.1:1/enwiki"
    index = ElasticIndex(Elasticsearch("http://127.0.0.1:1", max_retries=0), reference, "enwiki")
    for ask in (
        lambda: index.count(Entity("Q1")),
        lambda: index.chunk_ids(Phrase("Ada")),
        lambda: index.chunk(0),
    ):
        with pytest.raises(ValueError, match=r"^Elasticsearch cannot be reached: .*refused") as error:
            ask()
        assert "\n" not in str(error.value)


def test_an_address_needs_the_name_of_an_index():
    assert split_reference("HTTP://[::1]:9200/enwiki/") == ("HTTP://[::1]:9200", "enwiki")
    for wrong in ("http://host:9200", "http://host/a/b", "http://host/a?b", "http:///a"):
        with pytest.raises(ValueError, match="is not SERVER/INDEX"):
            split_reference(wrong)


def test_a_missing_client_is_said(monkeypatch):
    monkeypatch.setattr("entity_index.backend.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'entity-index\[elasticsearch\]'"):
        check_client()
