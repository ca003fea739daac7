"""Guard against mixed packages: metarl, envs and agents must sit beside each other.

`envs` and `agents` are generic names. Python looks for them in the working folder first, so a user's own `envs/` would
silently take the place of ours. The guard looks the packages up without importing them: no foreign code runs.
"""

from importlib.util import find_spec
from pathlib import Path

NEIGHBOURS = ("envs", "agents")
SHIPPED = Path(__file__).parent / "run_folder" / "shipped"  # the policies that come with the package


def check() -> None:
    """Stop unless `import envs` and `import agents` find the folders beside metarl.

    Raises:
        ImportError: names the foreign path when another package is found first, or the package that is missing.
    """
    root = Path(__file__).parent.parent
    for name in NEIGHBOURS:
        expected = root / name
        found = location(name)
        if found is None:
            raise ImportError(f"{expected} is missing: install metarl again, or restore the folder.", name=name)
        if found != expected.resolve():
            raise ImportError(
                f"`import {name}` finds {found} instead of {expected}, which metarl needs: rename or move {found}, "
                "start from another folder, or keep the working folder out of the search with `python -P`.",
                name=name,
                path=str(found),
            )


def beside(name: str) -> bool:
    """Whether `import name` finds the folder that lies beside metarl, and not another package of that name."""
    return location(name) == (Path(__file__).parent.parent / name).resolve()


def location(name: str) -> Path | None:
    """Where `import name` would look: a package's folder, a module's file, or None if there is neither."""
    spec = find_spec(name)
    if spec is None:
        return None
    # A folder without __init__.py is a package too, but has no file: only the search locations name its folder.
    folders = list(spec.submodule_search_locations or [])
    return Path(folders[0] if folders else spec.origin or name).resolve()
