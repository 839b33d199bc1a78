"""Two encyclopedias in one synthetic language, other people and places: to pretrain on, and to go on with.

    python texts.py OUT --facts 600

Writes OUT/pretraining.jsonl, whose probes tools/synthetic_wikipedia.py writes, and OUT/other.jsonl.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "mixtures"))

from encyclopedia import articles, write_lines


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--facts", type=int, required=True, help="of each of the two")
    arguments = parser.parse_args()
    for seed, name in enumerate(("pretraining", "other")):
        rows = articles(num_facts=arguments.facts, seed=seed)
        write_lines(({"id": row["id"], "text": row["text"]} for row in rows), arguments.out / f"{name}.jsonl")


if __name__ == "__main__":
    main()
