"""Retrieval by entity against names, on three corpora with gold: the quickstart's, wiki-fair, GUM.

    uv run integration_tests/experiments/retrieval/run.py OUT [--shared ../shared/data] [--entities 1000]

Minutes on two cores. Corpora that are not there are left out, which is said.
"""

import argparse
import sys
from pathlib import Path

import corpora
from steps import build_index, evaluate, run

TOOLS = Path(__file__).resolve().parents[3] / "tools"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared", type=Path, default=TOOLS.parent.parent / "shared" / "data")
    parser.add_argument("--entities", type=int, default=1000)
    arguments = parser.parse_args()
    prepare_quickstart(arguments.out / "quickstart")
    for name, path, read in (
        ("wiki-fair", corpora.WIKI_FAIR, corpora.read_wiki_fair),
        ("gum", corpora.GUM, corpora.read_gum),
    ):
        if (arguments.shared / path).exists():
            if not (arguments.out / name / "gold.parquet").exists():
                corpora.write_corpus(*read(arguments.shared / path), arguments.out / name)
        else:
            print(f"no {name}: {str(arguments.shared / path)!r} is not there", file=sys.stderr)
    for folder in sorted(path.parent for path in arguments.out.glob("*/gold.parquet")):
        build_index(folder)
        evaluate(folder, entities=arguments.entities)


def prepare_quickstart(folder: Path) -> None:
    """The quickstart's encyclopedia, annotated."""
    if (folder / "gold.parquet").exists():
        return
    run("python", TOOLS / "synthetic_wikipedia.py", folder / "corpus")
    run("entity-annotate", "wikipedia", folder / "corpus/dump.xml.bz2", folder / "wiki", "--allow-damaged")
    for name in ("documents.parquet", "mentions.parquet"):
        (folder / "wiki" / name).rename(folder / name)
    (folder / "corpus/gold_mentions.parquet").rename(folder / "gold.parquet")


if __name__ == "__main__":
    main()
