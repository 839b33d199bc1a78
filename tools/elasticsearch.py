# /// script
# requires-python = ">=3.11"
# ///
"""A real Elasticsearch server for development and tests, on loopback only.

    uv run tools/elasticsearch.py start [--version 9.2.0] [--folder DIR] [--nodes 3]
    uv run tools/elasticsearch.py status
    uv run tools/elasticsearch.py stop [--delete]

`start` lets Maven fetch the server, runs it as an ordinary user with a bounded heap and a folder of its own,
waits until the cluster is green and prints the address of each node. A folder is one cluster: what is down in
it is started again with its data and its addresses, what is up stays as it is. Several run side by side.
Tested with 8.19.21 (the default) on Java 17 and with 9.2.0 on Java 25; 9 and later need Java 21.
"""

import argparse
import base64
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

VERSION = "8.19.21"
ARTIFACT = "org.elasticsearch.distribution.integ-test-zip:elasticsearch"
LEAST_JAVA = {7: 11, 8: 17}  # later ones: 21
ORDINARY_USER = "nobody"  # who runs the server where one is root, which it refuses
START_SECONDS, STOP_SECONDS, FREE_SECONDS = 400, 30, 10


class CannotRunHereError(Exception):
    """Java or Maven is missing on this machine: exit code 3, so that a test can tell."""


# What it runs on


def find_java(version: str) -> Path:
    """The home of the oldest Java that this server version runs on."""
    least = LEAST_JAVA.get(int(version.split(".")[0]), 21)
    homes = [os.environ.get("ES_JAVA_HOME"), os.environ.get("JAVA_HOME"), java_on_path()]
    homes += [str(home) for home in sorted(Path("/usr/lib/jvm").glob("*"))]
    found = {home: number for home in filter(None, homes) if (number := java_version(Path(home)))}
    enough = [home for home, number in found.items() if number >= least]
    if not enough:
        have = ", ".join(f"{number} in {home}" for home, number in found.items()) or "none"
        raise CannotRunHereError(f"Elasticsearch {version} needs Java {least} or later; here is {have}")
    return Path(min(enough, key=lambda home: found[home]))


def java_on_path() -> str | None:
    """The home of the `java` that a shell would start."""
    java = shutil.which("java")
    return str(Path(java).resolve().parent.parent) if java else None


def java_version(home: Path) -> int | None:
    """The feature number of a Java home, from the file `release` that each of them has."""
    release = home / "release"
    if not (home / "bin" / "java").exists() or not release.is_file():
        return None
    found = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', release.read_text(encoding="utf-8"))
    return int(found[1]) if found else None


def cache_folder() -> Path:
    """Where unpacked servers and the default cluster stay: a place that an ordinary user may enter."""
    if os.geteuid() == 0:
        return Path("/var/cache/elasticsearch-dev")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elasticsearch-dev"


def fetch_server(version: str) -> Path:
    """The unpacked server; Maven fetches it the first time."""
    home = cache_folder() / f"elasticsearch-{version}"
    if home.is_dir():
        return home
    if not shutil.which("mvn"):
        raise CannotRunHereError("Maven (mvn) is needed to fetch the server, and is not installed")
    partly = cache_folder() / f"{home.name}.{os.getpid()}.tmp"
    partly.mkdir(parents=True)
    try:
        wanted = f"-Dartifact={ARTIFACT}:{version}:zip", f"-DoutputDirectory={partly}"
        command = ["mvn", "--batch-mode", "--quiet", "dependency:copy", *wanted]
        done = subprocess.run(command, cwd=partly, capture_output=True, encoding="utf-8")
        archives = list(partly.glob("*.zip"))
        if done.returncode or not archives:
            reason = next((line for line in done.stdout.splitlines() if "ERROR" in line), "no archive came")
            raise ValueError(f"Maven could not fetch Elasticsearch {version}: {reason}")
        unpack(archives[0], partly)
        if not home.is_dir():  # another start may have been faster
            (partly / home.name).rename(home)
    finally:
        shutil.rmtree(partly)
    return home


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a server so that everybody may read and run it."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)


# One node


class Node:
    """One server process, with its own folder inside the cluster's."""

    def __init__(self, folder: Path, number: int, ports: dict[str, int], *, tls: bool) -> None:
        """Describe it; nothing is started or written."""
        self.name, self.ports, self.folder = f"node-{number}", ports, folder / f"node-{number}"
        self.url = f"{'https' if tls else 'http'}://localhost:{ports['http']}".replace(
            "http://localhost", "http://127.0.0.1"
        )

    @property
    def config(self) -> Path:
        """Its configuration folder."""
        return self.folder / "config"

    @property
    def mark(self) -> str:
        """An argument that tells its process from others."""
        return f"-Ddevelopment.node={urllib.parse.quote(str(self.folder))}"

    def process_id(self) -> int | None:
        """Its process, if it runs: a number left over in the file may be anybody's by now."""
        try:
            number = int((self.folder / "pid").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        asked = ["ps", "-ww", "-o", "args=", "-p", str(number)]
        arguments = subprocess.run(asked, capture_output=True, encoding="utf-8").stdout
        return number if self.mark in arguments.split() else None

    def stop(self) -> bool:
        """End its process, and wait until it is gone; False if there was none."""
        number = self.process_id()
        if number is not None:
            os.kill(number, signal.SIGTERM)
            give_up = time.monotonic() + STOP_SECONDS
            while self.process_id() is not None:
                if time.monotonic() > give_up:
                    os.kill(number, signal.SIGKILL)
                time.sleep(0.1)
        (self.folder / "pid").unlink(missing_ok=True)
        return number is not None


def free_port() -> int:
    """A port that nobody listens on now, outside the range that systems give to outgoing connections."""
    return next(port for port in iter(lambda: random.randrange(20_000, 32_000), None) if is_free(port))


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of loopback."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


# A cluster: what server.json in its folder says


def read_cluster(folder: Path) -> dict[str, Any]:
    """What `start` noted about the folder's cluster; empty where there is none."""
    try:
        return dict(json.loads((folder / "server.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def nodes_of(folder: Path, cluster: dict[str, Any]) -> list[Node]:
    """The nodes of a cluster, running or not."""
    ports = cluster.get("ports", [])
    return [Node(folder, i + 1, ports[i], tls=bool(cluster["tls"])) for i in range(len(ports))]


def plan_cluster(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """The cluster that a folder shall hold: the one that is there, or a new one as asked for."""
    cluster = read_cluster(folder)
    if not cluster:
        ports = [{"http": free_port(), "transport": free_port()} for _ in range(asked.nodes or 1)]
        if asked.port:
            ports[0]["http"] = asked.port
        cluster = {"version": asked.version or VERSION, "ports": ports, "tls": None, "password_file": None}
        cluster |= {"heap": "1g", "settings": {}}
    ports = cluster["ports"]
    for name, there in ("version", cluster["version"]), ("nodes", len(ports)), ("port", ports[0]["http"]):
        if (wanted := getattr(asked, name)) not in (None, there):
            raise ValueError(
                f"the cluster in {str(folder)!r} has {name} {there}, not {wanted}: choose another --folder, "
                "or remove it with 'stop --delete'"
            )
    for name in ("tls", "password_file"):
        if getattr(asked, name):
            cluster[name] = str(Path(getattr(asked, name)).resolve())
    if asked.heap:
        cluster["heap"] = asked.heap
    cluster["settings"] |= dict(parse_setting(text) for text in asked.set)
    return cluster


def parse_setting(text: str) -> tuple[str, str]:
    """NAME=VALUE of `--set`."""
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.]+", name) or "\n" in value:
        raise ValueError(f"--set {text!r} is not NAME=VALUE of elasticsearch.yml")
    return name, value


def settings_of(folder: Path, cluster: dict[str, Any], node: Node) -> dict[str, str]:
    """What stands in the node's elasticsearch.yml. Values are JSON, which YAML understands."""
    transports = [f"127.0.0.1:{ports['transport']}" for ports in cluster["ports"]]
    settings: dict[str, Any] = {
        "cluster.name": f"development-{transports[0].rpartition(':')[2]}",
        "node.name": node.name,
        "network.host": "127.0.0.1",
        "http.port": node.ports["http"],
        "transport.port": node.ports["transport"],
        "path.data": str(node.folder / "data"),
        "path.logs": str(node.folder / "logs"),
        "path.repo": [str(folder / "snapshots")],
        "xpack.security.enabled": bool(cluster["tls"] or cluster["password_file"]),
        # a developer's disk may be fuller than a server's: what counts is what is free
        "cluster.routing.allocation.disk.watermark.low": "2gb",
        "cluster.routing.allocation.disk.watermark.high": "1gb",
        "cluster.routing.allocation.disk.watermark.flood_stage": "500mb",
    }
    if len(transports) == 1:
        settings["discovery.type"] = "single-node"
    else:
        settings["discovery.seed_hosts"] = transports
        if not (node.folder / "data").exists():
            settings["cluster.initial_master_nodes"] = [n.name for n in nodes_of(folder, cluster)]
    if cluster["tls"]:
        settings["xpack.security.http.ssl.enabled"] = True
        settings["xpack.security.http.ssl.key"] = "server.key"
        settings["xpack.security.http.ssl.certificate"] = "server.pem"
    written = {name: json.dumps(value) for name, value in settings.items()} | cluster["settings"]
    return {name: value for name, value in written.items() if value}


def start(folder: Path, asked: argparse.Namespace) -> None:
    """Bring up all nodes of the folder's cluster, wait until it is green, print their addresses."""
    cluster = plan_cluster(folder, asked)
    java, home = find_java(cluster["version"]), fetch_server(cluster["version"])
    make_folder(folder)
    nodes = nodes_of(folder, cluster)
    down = [node for node in nodes if node.process_id() is None]
    for node in down:
        prepare(folder, cluster, node, home, java)
    (folder / "server.json").write_text(json.dumps(cluster, indent=2) + "\n", encoding="utf-8")
    launchers = {node: launch(node, cluster, home, java) for node in down}
    wait_until_green(cluster, nodes, launchers)
    for node in nodes:
        print(node.url)


def make_folder(folder: Path) -> None:
    """Make the cluster's folder, where the server's user may go."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return
    for place in (folder, *folder.parents):
        if not place.stat().st_mode & 0o001:
            raise ValueError(
                f"the server runs as user {ORDINARY_USER!r}, who may not enter {str(place)!r}: choose "
                "another --folder, or 'chmod o+x' it"
            )


def prepare(folder: Path, cluster: dict[str, Any], node: Node, home: Path, java: Path) -> None:
    """Write a node's configuration and give its folders to the user who runs it."""
    give_up = time.monotonic() + FREE_SECONDS  # a process that was killed is gone before its port is free
    for kind, port in node.ports.items():
        while not is_free(port) and time.monotonic() < give_up:
            time.sleep(0.1)
        if not is_free(port):
            raise ValueError(f"port {port} ({kind} of {node.name}) is in use: stop what listens there")
    settings = settings_of(folder, cluster, node)
    shutil.rmtree(node.config, ignore_errors=True)
    shutil.copytree(home / "config", node.config)
    text = "".join(f"{name}: {value}\n" for name, value in settings.items())
    (node.config / "elasticsearch.yml").write_text(text, encoding="utf-8")
    options = (home / "config" / "jvm.options").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = "".join(
        line for line in options if "gc.log" not in line
    )  # version 7 puts that beside its programs
    (node.config / "jvm.options").write_text(kept, encoding="utf-8")
    for name in ("server.key", "server.pem") if cluster["tls"] else ():
        shutil.copy(Path(cluster["tls"]) / name, node.config / name)
    for place in (node.folder / "data", node.folder / "logs", node.folder / "tmp", folder / "snapshots"):
        place.mkdir(exist_ok=True)
    (node.folder / "pid").unlink(missing_ok=True)
    if os.geteuid() == 0:
        user = pwd.getpwnam(ORDINARY_USER)
        for place in (folder / "snapshots", node.folder, *node.folder.rglob("*")):
            os.chown(place, user.pw_uid, user.pw_gid)
    if cluster["password_file"]:
        set_password(cluster, node, home, java)


def set_password(cluster: dict[str, Any], node: Node, home: Path, java: Path) -> None:
    """Put the password of the user `elastic` into the node's keystore."""
    tool = str(home / "bin" / "elasticsearch-keystore")
    secret = Path(cluster["password_file"]).read_text(encoding="utf-8").strip()
    run_as_user([tool, "create"], node, java)
    run_as_user([tool, "add", "--stdin", "--force", "bootstrap.password"], node, java, secret=secret)


def as_user(node: Node, java: Path, **variables: str) -> dict[str, Any]:
    """How to start one of the server's programs: as an ordinary user, with little of our environment."""
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {"ES_JAVA_HOME": str(java), "ES_PATH_CONF": str(node.config), **variables}
    environment |= {"ES_TMPDIR": str(node.folder / "tmp")}  # else it leaves a folder in /tmp at every start
    options: dict[str, Any] = {"env": environment, "cwd": node.folder}
    if os.geteuid() == 0:
        user = pwd.getpwnam(ORDINARY_USER)
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return options


def run_as_user(command: list[str], node: Node, java: Path, *, secret: str = "") -> None:
    """Run a program of the server to its end."""
    done = subprocess.run(command, input=secret, capture_output=True, encoding="utf-8", **as_user(node, java))
    if done.returncode:
        raise ValueError(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()}")


def launch(node: Node, cluster: dict[str, Any], home: Path, java: Path) -> subprocess.Popen[bytes]:
    """Start a node; what is returned ends when the node is up and on its own, or has failed."""
    heap = f"-Xms{cluster['heap']} -Xmx{cluster['heap']}"
    options = as_user(node, java, ES_JAVA_OPTS=f"{heap} {node.mark}")
    command = [str(home / "bin" / "elasticsearch"), "--daemonize", "--pidfile", str(node.folder / "pid")]
    with (node.folder / "logs" / "console.log").open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **options
        )


def wait_until_green(
    cluster: dict[str, Any], nodes: list[Node], launchers: dict[Node, subprocess.Popen[bytes]]
) -> None:
    """Wait until all nodes have joined and all shards are where they belong; else end what was started."""
    give_up = time.monotonic() + START_SECONDS
    seen = {node for node in nodes if node not in launchers}
    while not is_green(cluster, nodes):
        up = {node for node in nodes if node.process_id() is not None}
        seen |= up
        refused = [node for node, launcher in launchers.items() if launcher.poll()]
        failed = [*refused, *(seen - up)]
        if failed or time.monotonic() > give_up:
            node = failed[0] if failed else nodes[0]
            for started in launchers:
                started.stop()
            what = "ended" if failed else f"is not green after {START_SECONDS} s"
            raise ValueError(
                f"{node.name} {what}: {last_words(node)} (more in {str(node.folder / 'logs')!r})"
            )
        time.sleep(0.25)
    for launcher in launchers.values():
        launcher.wait()


def last_words(node: Node) -> str:
    """The last line that says something in what a node printed."""
    printed = (node.folder / "logs" / "console.log").read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"ERROR|[Ee]xception", line)]
    return (errors or lines or ["it printed nothing"])[-1]


def is_green(cluster: dict[str, Any], nodes: list[Node]) -> bool:
    """Whether every node answers that the whole cluster is up."""
    return all(
        health(cluster, node).get("status") == "green"
        and health(cluster, node)["number_of_nodes"] == len(nodes)
        for node in nodes
    )


def health(cluster: dict[str, Any], node: Node) -> dict[str, Any]:
    """What a node says about its cluster; empty if it does not answer."""
    request = urllib.request.Request(f"{node.url}/_cluster/health?timeout=1s")
    if cluster["password_file"]:
        password = Path(cluster["password_file"]).read_text(encoding="utf-8").strip()
        token = base64.b64encode(f"elastic:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    trusted = ssl.create_default_context(cafile=Path(cluster["tls"]) / "ca.pem") if cluster["tls"] else None
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
    )
    try:
        with direct.open(request, timeout=5) as answer:
            return dict(json.load(answer))
    except (OSError, urllib.error.URLError, ValueError):
        return {}


def stop(folder: Path, asked: argparse.Namespace) -> None:
    """End all nodes, and with --delete remove the cluster and its data."""
    nodes = nodes_of(folder, read_cluster(folder))
    stopped = [node.stop() for node in nodes]
    say(f"stopped {sum(stopped)} of {len(nodes)} nodes in {folder}" if nodes else f"no server in {folder}")
    if asked.delete and nodes:
        shutil.rmtree(folder)


def status(folder: Path, asked: argparse.Namespace) -> None:
    """Print each node's address and state; exit code 1 unless all run."""
    cluster = read_cluster(folder)
    nodes = nodes_of(folder, cluster)
    for node in nodes:
        number = node.process_id()
        state = health(cluster, node).get("status", "no answer") if number else "down"
        print(f"{node.url}  {cluster['version']}  {state}" + (f"  process {number}" if number else ""))
    if not nodes:
        say(f"no server in {folder}")
    if not nodes or not all(node.process_id() for node in nodes):
        sys.exit(1)


def say(message: str) -> None:
    """Words go to stderr."""
    print(message, file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    described = (__doc__ or "").strip()
    commands = argparse.ArgumentParser(
        description=described, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = commands.add_subparsers(dest="command", required=True)
    for name, function in (("start", start), ("stop", stop), ("status", status)):
        command = subparsers.add_parser(name, help=(function.__doc__ or "").strip())
        command.add_argument(
            "--folder",
            type=Path,
            default=cache_folder() / "server",
            help="the cluster's own folder (default: %(default)s)",
        )
        command.set_defaults(function=function)
    begin, end = subparsers.choices["start"], subparsers.choices["stop"]
    begin.add_argument("--version", help=f"of Elasticsearch (default: {VERSION})")
    begin.add_argument("--nodes", type=int, help="how many nodes the cluster has (default: 1)")
    begin.add_argument("--heap", help="heap of a node, such as 512m (default: 1g)")
    begin.add_argument("--port", type=int, help="port of the first node (default: any that is free)")
    begin.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another setting of elasticsearch.yml; NAME= leaves one out (repeatable)",
    )
    begin.add_argument(
        "--tls", metavar="DIR", help="serve HTTPS: a folder with server.key, server.pem, ca.pem"
    )
    begin.add_argument("--password-file", metavar="FILE", help="ask for this password of user elastic")
    end.add_argument("--delete", action="store_true", help="also remove the folder with all data")
    return commands


def main() -> None:
    """Run the command; what is wrong is one line on stderr."""
    asked = parser().parse_args()
    try:
        asked.function(asked.folder.resolve(), asked)
    except CannotRunHereError as error:
        say(f"error: {error}")
        sys.exit(3)
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
