"""The way to a server: addresses, secrets, certificates, and servers that are none of ours."""

import base64
import hashlib
import http.server
import socket
import ssl
import threading
from contextlib import contextmanager

import pytest

pytest.importorskip("elasticsearch", reason="the extra elasticsearch is not installed")
from entity_index.elastic.connection import Security, check_address, check_index_name, connect, security_from

SECRET = "s3cret-Passw0rd"


@contextmanager
def answering(status, body, headers=()):
    """A server on loopback that gives one answer to everything."""

    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


JSON_OF_ELASTICSEARCH = [("X-elastic-product", "Elasticsearch"), ("Content-Type", "application/json")]
SEVEN = b'{"nodes":{"M26umSPcQAG1hbB6MYRnHQ":{"version":"7.17.29"}}}'  # as 7.17.29 answers


@pytest.mark.parametrize(
    ("status", "body", "headers", "message"),
    [
        (200, SEVEN, JSON_OF_ELASTICSEARCH, "is Elasticsearch 7.17.29: this works with versions 8 and 9"),
        (200, SEVEN.replace(b"7.17.29", b"10.0.1"), JSON_OF_ELASTICSEARCH, "10.0.1: this works with"),
        (200, b"<html>", [("Content-Type", "text/html")], "does not answer as Elasticsearch does"),
        (404, b"", [], r"does not answer as Elasticsearch does"),
        (401, b"{}", JSON_OF_ELASTICSEARCH, r"wants to know who asks \(status 401\): set ELASTICSEARCH_API"),
        (403, b"{}", JSON_OF_ELASTICSEARCH, "the privilege 'monitor' is needed"),
    ],
)
def test_a_server_that_does_not_answer_as_it_should_is_refused_in_one_sentence(
    status, body, headers, message
):
    with answering(status, body, headers) as (url, _), pytest.raises(ValueError, match=message) as caught:
        connect(url, Security(user="ada", password=SECRET))
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_versions_8_and_9_are_welcome():
    for version in (b"8.0.0", b"8.19.21", b"9.2.0"):
        with answering(200, SEVEN.replace(b"7.17.29", version), JSON_OF_ELASTICSEARCH) as (url, _):
            connect(url, Security()).close()


def test_every_request_says_who_asks():
    eight = SEVEN.replace(b"7.17.29", b"8.19.21")
    basic = base64.b64encode(f"ada:{SECRET}".encode()).decode()
    for security, expected in (
        (Security(api_key="a2V5"), "ApiKey a2V5"),
        (Security(user="ada", password=SECRET), f"Basic {basic}"),
        (Security(), None),
    ):
        with answering(200, eight, JSON_OF_ELASTICSEARCH) as (url, asked):
            connect(url, security).close()
        assert asked == [expected]


def test_an_unreachable_server_is_one_sentence():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(ValueError, match=r"cannot be reached: \[Errno \d+\] Connection refused$"):
        connect(f"http://127.0.0.1:{port}", Security())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://10.1.2.3:9200", "is not encrypted and not on this machine: use https, or allow it"),
        ("http://search.example:9200", "is not encrypted"),
        ("http://127.0.0.1.example:9200", "is not encrypted"),
        ("https://ada:pw@localhost:9200", "holds a name or password, which would be seen"),
        ("http://ada@localhost:9200", "holds a name or password, which would be seen"),
        ("localhost:9200", "is no address of a server"),
        ("ftp://localhost", "is no address of a server"),
        ("https://", "is no address of a server"),
        ("https://localhost:99999", "cannot be read"),
        ("https://localhost/?q=1", "is no address of a server"),
    ],
)
def test_an_address_that_is_none_or_not_safe_is_refused(url, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_address(url, Security())
    assert "pw" not in str(caught.value)


def test_plain_http_to_another_machine_must_be_allowed():
    assert check_address("http://10.1.2.3:9200", Security(allow_http=True)).hostname == "10.1.2.3"
    for url in ("http://localhost", "http://127.0.0.1:1", "http://[::1]:9200", "https://search.example"):
        check_address(url, Security())


def test_secrets_come_from_variables_or_files_and_are_not_printed(tmp_path):
    (tmp_path / "secret").write_text(f"{SECRET}\n", encoding="utf-8")
    file = str(tmp_path / "secret")
    expected = Security(user="ada", password=SECRET)
    for given in ({"PASSWORD": SECRET}, {"PASSWORD_FILE": file}):
        found = security_from({"ELASTICSEARCH_USER": "ada", **named(given)})
        assert found == expected
        assert SECRET not in repr(found)
    key = security_from(named({"API_KEY_FILE": file}))
    assert key == Security(api_key=SECRET)
    assert SECRET not in repr(key)
    assert security_from({}) == Security()
    assert security_from(named({"ALLOW_HTTP": "1", "API_KEY": ""})) == Security(allow_http=True)
    print_of = "AB:" * 31 + "AB"
    assert security_from(named({"FINGERPRINT": print_of})) == Security(fingerprint=print_of)


def named(given):
    return {f"ELASTICSEARCH_{name}": value for name, value in given.items()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"USER": "ada"}, "go together"),
        ({"PASSWORD": SECRET}, "go together"),
        ({"USER": "ada", "PASSWORD": SECRET, "API_KEY": "k"}, "are both given"),
        ({"API_KEY": SECRET, "API_KEY_FILE": "f"}, "are both given"),
        ({"API_KEY_FILE": "/nowhere/key"}, "cannot be read: No such file"),
        ({"API_KEY_FILE": "/dev/null"}, "is empty"),
        ({"FINGERPRINT": "AB:CD"}, "is no SHA-256 in hexadecimal"),
        ({"ALLOW_HTTP": "yes"}, "expected 0 or 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_without_showing_them(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        security_from(named(given))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "*",
        "en*",
        "a,b",
        "../x",
        "a/b",
        "_all",
        "-a",
        ".hidden",
        "A",
        "a b",
        "<now>",
        "a%2Fb",
        "é",
        "x" * 201,
    ],
)
def test_what_is_no_name_of_one_index_is_refused(name):
    with pytest.raises(ValueError, match="is no name of an index"):
        check_index_name(name)


@pytest.fixture(scope="module")
def secured(make_cluster, tmp_path_factory):
    """A real server with TLS and a password: its address, and the folder with certificates and password."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("secrets")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
    (folder / "password").write_text(SECRET, encoding="utf-8")
    (url,) = make_cluster().start("--tls", str(folder), "--password-file", str(folder / "password"))
    return url, folder


@pytest.mark.slow
def test_a_server_with_tls_and_a_password_is_trusted_only_as_told(secured):
    url, folder = secured
    authority, password_file = str(folder / "ca.pem"), str(folder / "password")
    known = {"USER": "elastic", "PASSWORD_FILE": password_file}
    certificate = ssl.PEM_cert_to_DER_cert((folder / "server.pem").read_text(encoding="utf-8"))
    fingerprint = hashlib.sha256(certificate).hexdigest()
    for trust in ({"CA_FILE": authority}, {"FINGERPRINT": fingerprint}):
        connect(url, security_from(named(known | trust))).close()
    refused = [
        (known, "is not trusted"),
        (known | {"FINGERPRINT": "00" * 32}, "is not trusted"),
        ({"CA_FILE": authority}, "wants to know who asks"),
        ({"CA_FILE": authority, "USER": "elastic", "PASSWORD": "wrong"}, "wants to know who asks"),
        ({"CA_FILE": authority, "API_KEY": "d3Jvbmc6a2V5"}, "wants to know who asks"),
    ]
    for given, message in refused:
        with pytest.raises(ValueError, match=message) as caught:
            connect(url, security_from(named(given)))
        assert SECRET not in str(caught.value)
