"""YAML from people: read without what could take all memory or time, and with one kind of error."""

from __future__ import annotations

import yaml

MAX_NUMBER = 100
"""Characters of a number: Python's time for `1:0:0:…`, which is one, goes with the square of their count."""


class _Loader(yaml.SafeLoader):
    """YAML without references, a few of which can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to a part of itself with *, which is not read")
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: dict[str, yaml.Node]) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_NUMBER:
            raise yaml.YAMLError(f"it has a number of {len(node.value)} characters, at most {MAX_NUMBER} are read")
        return node


def load(data: bytes) -> object:
    """The one document of a YAML file in UTF-8; None where it is empty. Raises `ValueError`, with one line that says why.

    Text may hold half of a surrogate pair, where an escape says so: it can't be written as UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not UTF-8 ({error.reason})") from None
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:  # 2001-99-99, !!int "", !!bool x
        raise ValueError(f"it has a value that is none: {' '.join(str(error).split())}") from None
