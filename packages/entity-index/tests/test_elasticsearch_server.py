"""The development server: started, killed, started again, with its data."""

import urllib.request

import pytest

pytestmark = pytest.mark.slow


def health(url):
    with urllib.request.urlopen(f"{url}/_cluster/health") as answer:
        return answer.read()


def test_a_killed_server_comes_back_at_the_same_address_with_its_data(make_cluster):
    cluster = make_cluster()
    (url,) = cluster.start()
    made = urllib.request.Request(f"{url}/kept", method="PUT", headers={"Content-Type": "application/json"})
    urllib.request.urlopen(made, data=b'{"settings": {"number_of_replicas": 0}}').close()
    cluster.kill()
    assert cluster.start() == [url]
    assert b'"green"' in health(url)
    with urllib.request.urlopen(f"{url}/kept/_count") as answer:
        assert b'"count":0' in answer.read()
    assert cluster.start() == [url]  # what runs is left alone
    cluster.remove()
    with pytest.raises(OSError, match="refused"):
        health(url)
