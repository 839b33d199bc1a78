"""Published recipes that come with the package, as configurations: `preset:NAME` in the place of a file."""

from pathlib import Path

PREFIX = "preset:"
FOLDER = Path(__file__).parent / "recipes"


def list_presets() -> dict[str, str]:
    """Name of every recipe, and what it is in a line."""
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return {name: describe_preset(FOLDER / f"{name}.yaml").splitlines()[0] for name in names}


def find_preset(name: str) -> Path:
    """The file of a recipe.

    Raises:
        ValueError: there is no such recipe; those that exist are named.
    """
    path = FOLDER / f"{name}.yaml"
    if path.stem != name or not path.is_file():
        raise ValueError(f"no preset {name!r}: there are {', '.join(list_presets())}")
    return path


def describe_preset(path: Path) -> str:
    """The comment that a recipe begins with."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(comment)
