"""YAML that can only hold plain data, and no more of it than the file is long."""

from __future__ import annotations

from typing import Any

import yaml

LIMIT = 2**20  # bytes of a configuration; ours have about 2000


class _Loader(yaml.SafeLoader):
    """Without references: nested ones unfold a short file into more data than any memory holds. And each key once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has references (*name), which no run of ours has")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"it has the key {twice[0]} twice")
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump_yaml(data: dict[str, Any]) -> bytes:
    """Plain data as YAML text, in its order.

    Raises:
        yaml.YAMLError: for anything that is not plain data.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True).encode()


def load_yaml(content: bytes) -> Any:
    """The plain data of a YAML text.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: for anything else.
    """
    return yaml.load(content.decode("utf-8"), Loader=_Loader)
