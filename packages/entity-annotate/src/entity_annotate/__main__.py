"""Run as `python -m entity_annotate`."""

from entity_annotate.cli import main

if __name__ == "__main__":
    main()
