"""The way to a server: who we are, whom we trust, and that it is one we can speak to.

A secret comes from the environment or a file, never from the command line, and stands in no message:

* ELASTICSEARCH_API_KEY, or ELASTICSEARCH_API_KEY_FILE: an API key, encoded as it was given, or its file
* ELASTICSEARCH_USER, with ELASTICSEARCH_PASSWORD or ELASTICSEARCH_PASSWORD_FILE
* ELASTICSEARCH_CA_FILE: certificates to trust instead of the system's (PEM)
* ELASTICSEARCH_FINGERPRINT: SHA-256 of the server's certificate or its authority's, in hexadecimal
* ELASTICSEARCH_ALLOW_HTTP: 1 to speak unencrypted to other machines, too
"""

import ipaddress
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from elasticsearch import (
    ApiError,
    ConnectionTimeout,
    Elasticsearch,
    SSLError,
    TransportError,
    UnsupportedProductError,
)

OLDEST, NEWEST = 8, 9
REQUEST_SECONDS = 60
PREFIX = "ELASTICSEARCH_"


@dataclass(frozen=True)
class Security:
    """How to prove who we are and whom to trust. Its secrets are not printed."""

    api_key: str | None = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    fingerprint: str | None = None
    allow_http: bool = False


def security_from(variables: Mapping[str, str]) -> Security:
    """Read the settings of `connect` from environment variables.

    >>> security_from({"ELASTICSEARCH_USER": "ada", "ELASTICSEARCH_PASSWORD": "secret"})
    Security(user='ada', ca_file=None, fingerprint=None, allow_http=False)
    """
    given = {name.removeprefix(PREFIX): value for name, value in variables.items() if value}
    api_key, password = (_secret(given, name) for name in ("API_KEY", "PASSWORD"))
    user = given.get("USER")
    if (user is None) != (password is None):
        raise ValueError(f"{PREFIX}USER and {PREFIX}PASSWORD (or {PREFIX}PASSWORD_FILE) go together")
    if api_key and user:
        raise ValueError(f"{PREFIX}API_KEY and {PREFIX}USER are both given: one of them is enough")
    allow_http = given.get("ALLOW_HTTP", "0")
    if allow_http not in ("0", "1"):
        raise ValueError(f"{PREFIX}ALLOW_HTTP is {allow_http!r}, expected 0 or 1")
    return Security(
        api_key, user, password, given.get("CA_FILE"), _fingerprint(given), allow_http=allow_http == "1"
    )


def _secret(given: Mapping[str, str], name: str) -> str | None:
    if f"{name}_FILE" not in given:
        return given.get(name)
    if name in given:
        raise ValueError(f"{PREFIX}{name} and {PREFIX}{name}_FILE are both given: one of them is enough")
    try:
        content = Path(given[f"{name}_FILE"]).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"the file of {PREFIX}{name}_FILE cannot be read: {error.strerror}") from None
    if not content:
        raise ValueError(f"the file of {PREFIX}{name}_FILE is empty")
    return content


def _fingerprint(given: Mapping[str, str]) -> str | None:
    found = given.get("FINGERPRINT")
    if found is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", found.replace(":", "")):
        raise ValueError(f"{PREFIX}FINGERPRINT is no SHA-256 in hexadecimal (64 digits)")
    return found


def connect(url: str, security: Security | None = None) -> Elasticsearch:
    """A client of a server that answers and is of version 8 or 9.

    Args:
        url: its address, such as `https://search.example:9200`, or those of several nodes, with commas.
        security: by default, what the environment says.

    Raises:
        ValueError: the address is none or not safe, or the server does not answer as it should.
    """
    security = security_from(os.environ) if security is None else security
    addresses = [check_address(part, security) for part in url.split(",")]
    if not (log := logging.getLogger("elastic_transport")).handlers:
        log.addHandler(logging.NullHandler())  # what it warns of is said here, in one sentence
    client = Elasticsearch([_plain(address) for address in addresses], **_options(addresses[0], security))
    try:
        check_version(read_version(client), url)
    except ApiError as error:
        client.close()
        raise ValueError(_refusal(url, error)) from error
    except (TransportError, UnsupportedProductError) as error:
        client.close()
        raise ValueError(_failure(url, error)) from error
    except ValueError:
        client.close()
        raise
    return client


def check_address(url: str, security: Security) -> SplitResult:
    """An address, taken apart; refused where secrets or texts could be read on the way."""
    try:
        address = urlsplit(url)
        address.port  # noqa: B018 (it is only checked when asked for)
    except ValueError as error:
        raise ValueError(f"the server's address cannot be read ({error})") from None
    if address.username is not None or address.password is not None:
        raise ValueError(
            f"the server's address holds a name or password, which would be seen: set {PREFIX}USER and "
            f"{PREFIX}PASSWORD_FILE"
        )
    if address.scheme not in ("http", "https") or not address.hostname or address.query or address.fragment:
        raise ValueError(f"{url!r} is no address of a server, such as https://localhost:9200")
    if address.scheme == "http" and not (security.allow_http or is_loopback(address.hostname)):
        raise ValueError(
            f"{url!r} is not encrypted and not on this machine: use https, or allow it (--allow-http, or "
            f"{PREFIX}ALLOW_HTTP=1)"
        )
    return address


def is_loopback(host: str) -> bool:
    """Whether a host is this machine.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "localhost.example", "10.0.0.1")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _plain(address: SplitResult) -> str:
    host = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname
    port = address.port or (443 if address.scheme == "https" else 9200)
    return f"{address.scheme}://{host}:{port}{address.path.rstrip('/')}"


def _options(address: SplitResult, security: Security) -> dict[str, Any]:
    """What the client is told. Certificates are verified: its own default, which nothing here turns off."""
    options: dict[str, Any] = {"request_timeout": REQUEST_SECONDS, "max_retries": 0}
    if security.api_key:
        options["api_key"] = security.api_key
    elif security.user:
        options["basic_auth"] = (security.user, security.password)
    if address.scheme != "https":
        return options
    if security.ca_file and not Path(security.ca_file).is_file():
        raise ValueError(f"no certificates at {security.ca_file!r} ({PREFIX}CA_FILE)")
    if security.ca_file:
        options["ca_certs"] = security.ca_file
    if security.fingerprint:
        options["ssl_assert_fingerprint"] = security.fingerprint.replace(":", "")
    return options


def read_version(client: Elasticsearch) -> str:
    """The server's version. Asked of the node itself: not every distribution answers `GET /`."""
    answer = client.nodes.info(node_id="_local", filter_path="nodes.*.version").body
    (node,) = answer["nodes"].values()
    return str(node["version"])


def check_version(version: str, url: str) -> None:
    """Refuse a server of another version."""
    if not OLDEST <= int(version.split(".")[0]) <= NEWEST:
        raise ValueError(f"{url} is Elasticsearch {version}: this works with versions {OLDEST} and {NEWEST}")


def _refusal(url: str, error: ApiError) -> str:
    """The server answered, but not with what was asked for."""
    status = error.meta.status
    if status == 401:
        return (
            f"{url} wants to know who asks (status 401): set {PREFIX}API_KEY_FILE, or {PREFIX}USER and "
            f"{PREFIX}PASSWORD_FILE, to what it knows"
        )
    if status == 403:
        return f"{url} forbids to ask for its version (status 403): the privilege 'monitor' is needed"
    return f"{url} does not answer as Elasticsearch does (status {status})"


def _failure(url: str, error: Exception) -> str:
    """No answer, or none of Elasticsearch."""
    if isinstance(error, UnsupportedProductError):
        return f"{url} does not answer as Elasticsearch does"
    if isinstance(error, ConnectionTimeout):
        return f"{url} did not answer within {REQUEST_SECONDS} s"
    if isinstance(error, SSLError):
        return (
            f"{url} is not trusted ({innermost_reason(error)}): set {PREFIX}CA_FILE or {PREFIX}FINGERPRINT, "
            "if it is the right one"
        )
    return f"{url} cannot be reached: {innermost_reason(error)}"


def innermost_reason(error: Exception) -> str:
    """The last of a chain of reasons."""
    chain = [error, error.__cause__, *getattr(error, "errors", ())]
    text = " ".join(str(link) for link in chain if link is not None)
    found = re.search(r"\[Errno[^)\"']*|certificate verify failed: [^(\"']*|Fingerprints did not match", text)
    return found[0].strip() if found else str(error).splitlines()[0]


def check_index_name(name: str) -> str:
    """The name of one index; a pattern, a list or a path is none.

    >>> check_index_name("enwiki-2025")
    'enwiki-2025'
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name) or len(name.encode()) > 200:
        raise ValueError(
            f"{name!r} is no name of an index: letters a to z, digits, '_', '-' and '.', and it begins with "
            "a letter or digit"
        )
    return name
