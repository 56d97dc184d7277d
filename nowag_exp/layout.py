"""Where conf/ and sweeps/ are, and what is in them; reads first lines only, imports nothing heavy."""

import difflib
from pathlib import Path


def folder(name: str) -> Path:
    """``conf``, ``sweeps`` or ``results/published``: at the top of a checkout, inside an installed package."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def groups() -> dict[str, dict[str, str]]:
    """Config groups, their options, and the headline of each option."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder("conf").glob("[!_]*/*.yaml")):  # _packaged holds shared parts
        found.setdefault(path.parent.name, {})[path.stem] = headline(path)
    return found


def sweeps() -> dict[str, str]:
    """Sweeps and their headlines."""
    return {path.stem: headline(path) for path in sorted(folder("sweeps").glob("*.yaml")) if path.is_file()}


def headline(path: Path) -> str:
    """First comment line of a YAML file that is not a Hydra directive."""
    with path.open(encoding="utf-8", errors="replace") as file:  # Whoever reads all of it says what is wrong.
        return next((line.strip("# \n") for line in file if line.startswith("#") and "@package" not in line), "")


def among(name: str, known: list[str]) -> str:
    """``; there are: a, b; did you mean a?``, for messages about an unknown name."""
    if not known:
        return ""
    near = difflib.get_close_matches(name, known, n=1) or [one for one in known if name and one.startswith(name)]
    return f"; there are: {', '.join(known)}" + (f"; did you mean {' or '.join(near)}?" if near else "")
