"""Models from files and texts, for code outside of this package; they live in `envs.core.models`."""

from envs.core.models import load_spec, parse_spec

__all__ = ["load_spec", "parse_spec"]
