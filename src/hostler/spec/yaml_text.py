"""YAML as people write it, read strictly: text in, plain data out."""

from __future__ import annotations

from typing import Any

import yaml

from hostler.spec.errors import InvalidRequest

MAX_TEXT_BYTES = 1024 * 1024
MAX_NODES = 100_000
"""Nodes of a document once every alias is written out: what a reader of the data walks through."""


def load_yaml(text: str, where: str) -> list[object]:
    """Every document of `text`; an empty one is left out. `where` names the text in errors, for example the file.

    Stricter than YAML: a key given twice is an error, tags make no objects, aliases may not blow up or recurse.
    Raises `InvalidRequest` with line and column.
    """
    if len(text) > MAX_TEXT_BYTES or len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise InvalidRequest(f"{where}: the file is larger than 1 MiB, which no card is.", code="invalid_yaml")
    try:
        return _documents(text, where)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "not YAML"
        raise InvalidRequest(f"{where}{_place(mark)}: {problem}.", hint=_remedy(problem), code="invalid_yaml") from None
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{where}: {_one_line(error)}.", code="invalid_yaml") from None
    except RecursionError:
        raise InvalidRequest(f"{where}: nested too deeply.", code="invalid_yaml") from None
    except ValueError as error:
        raise InvalidRequest(f"{where}: a value cannot be read: {error}.", code="invalid_yaml") from None


def _documents(text: str, where: str) -> list[object]:
    loader = yaml.SafeLoader(text)
    documents: list[object] = []
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                break
            _check(node, where, {}, set())
            value: object = loader.construct_document(node)  # pyright: ignore[reportUnknownMemberType]
            if value is not None:
                documents.append(value)
    finally:
        loader.dispose()
    return documents


def _check(node: yaml.Node, where: str, sizes: dict[int, int], open_nodes: set[int]) -> int:
    """The number of nodes below and with `node`, each alias counted as what it stands for."""
    known = sizes.get(id(node))
    if known is not None:
        return known
    if id(node) in open_nodes:
        raise InvalidRequest(f"{where}{_place(node.start_mark)}: an alias holds itself.", code="invalid_yaml")
    open_nodes.add(id(node))
    size = 1
    for child in _children(node, where):
        size += _check(child, where, sizes, open_nodes)
        if size > MAX_NODES:
            raise InvalidRequest(
                f"{where}{_place(node.start_mark)}: more than {MAX_NODES:,} values, aliases written out.",
                code="invalid_yaml",
            )
    open_nodes.discard(id(node))
    sizes[id(node)] = size
    return size


def _children(node: yaml.Node, where: str) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    children: list[yaml.Node] = []
    seen: dict[tuple[str, str], yaml.Node] = {}
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                raise InvalidRequest(
                    f"{where}{_place(key.start_mark)}: {key.value!r} is given twice; "
                    f"the first is on line {first.start_mark.line + 1}.",
                    param=key.value,
                    code="duplicate_key",
                )
        children += [key, value]
    return children


def _place(mark: Any) -> str:
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""


def _remedy(problem: str) -> str | None:
    if "'\\t'" in problem:
        return "Indent with spaces, not tabs."
    if "could not determine a constructor" in problem:
        return "Write plain values, without tags such as !!python."
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
