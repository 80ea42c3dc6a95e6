"""What there is, is in its page; what a page names, there is."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

import click
import pytest
from doc_pages import ROOT, codes, rows, sections, text_of
from starlette.routing import Mount, Route

from hostler.cli.main import root
from hostler.control.verbs import Verbs
from hostler.decide import reconcile
from hostler.engines import catalog
from hostler.registry.scan import ALLOWANCES
from hostler.settings import PREFIX, Settings
from hostler.spec import errors
from hostler.spec.documents import json_schemas
from hostler.spec.states import DeploymentState, ReplicaState
from hostler.web.app import create_routes

COMMON_OPTIONS = {"--home", "--url", "-o", "--output", "--help"}
SPEC_PAGES = {"model": "models.md", "deployment": "deployments.md"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


COMMANDS = dict(commands(root, ("hostler",)))


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_has_a_section_with_its_arguments_and_options(words: str) -> None:
    section = sections(text_of("cli.md")).get(words)
    assert section is not None, f"docs/cli.md has no section `{words}`"
    named = {word.rstrip(",") for code in codes(section) for word in code.split()}
    for parameter in COMMANDS[words].params:
        if isinstance(parameter, click.Argument):
            expected = {parameter.metavar or str(parameter.name).upper()}
            if expected == {"[JSON | TEXT]"}:
                expected = {"REQUEST_TEXT"}
        else:
            expected = {*parameter.opts, *parameter.secondary_opts} - COMMON_OPTIONS
        assert expected <= named, f"docs/cli.md, {words}: {', '.join(sorted(expected - named))} is missing"


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_s_section_names_no_option_that_it_has_not(words: str) -> None:
    known = {option for one in COMMANDS[words].params for option in (*one.opts, *one.secondary_opts)}
    listed = {
        word.rstrip(",")
        for row in rows(sections(text_of("cli.md"))[words])
        for code in re.findall(r"`([^`]+)`", row[0])
        for word in code.split()
        if word.startswith("-")
    }
    assert listed <= known, f"docs/cli.md, {words}: there is no {', '.join(sorted(listed - known))}"


def test_every_section_of_a_command_is_of_one_that_there_is() -> None:
    named = {title for title in sections(text_of("cli.md")) if title.startswith("hostler ")}
    assert named == set(COMMANDS)


def test_the_common_options_are_told_once() -> None:
    told = codes(sections(text_of("cli.md"))["Common options"])
    assert {"--home DIR", "--url URL", "--output FORMAT", "--help", "--version"} <= told


def test_every_exit_code_is_in_the_page_of_the_commands() -> None:
    listed = {int(row[0]) for row in rows(sections(text_of("cli.md"))["Exit codes"])[1:]}
    assert {kind.exit_code for kind in error_kinds()} <= listed
    assert {0, 2, 130} <= listed


def test_every_setting_is_listed_with_its_default_and_no_other_is() -> None:
    listed = {row[0].strip("`"): row[1] for row in rows(text_of("settings.md")) if row[0].startswith(f"`{PREFIX}")}
    settings = {PREFIX + field.name.upper(): field for field in dataclasses.fields(Settings)}
    assert set(listed) == set(settings)
    for variable, field in settings.items():
        if field.default is not None:
            assert listed[variable] == f"`{field.default}`", f"docs/settings.md: {variable} is {field.default!r}"


def fields_of(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields under `node`; a free key is NAME, an item of a list has its list's name."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    for option in node.get("anyOf", []):
        yield from fields_of(schema, option, prefix)
    if "items" in node:
        yield from fields_of(schema, node["items"], prefix)
    free = node.get("additionalProperties")
    if isinstance(free, dict):
        yield from fields_of(schema, cast("dict[str, Any]", free), f"{prefix}NAME.")
    for name, value in node.get("properties", {}).items():
        yield prefix + name
        yield from fields_of(schema, value, f"{prefix}{name}.")


@pytest.mark.parametrize("kind", json_schemas())
def test_every_field_of_a_kind_is_listed_and_no_other_is(kind: str) -> None:
    page = SPEC_PAGES[kind]
    schema = json_schemas()[kind]
    table = next(table for table in tables(text_of(page)) if table[0][0] == "field")
    listed = [row[0].strip("`") for row in table[1:]]
    assert sorted(listed) == sorted(set(fields_of(schema, schema))), f"docs/{page}"


@pytest.mark.parametrize("kind", json_schemas())
def test_the_default_of_a_field_is_as_it_is_listed(kind: str) -> None:
    schema = json_schemas()[kind]
    table = next(table for table in tables(text_of(SPEC_PAGES[kind])) if table[0][0] == "field")
    for row in table[1:]:
        node = field_node(schema, row[0].strip("`"))
        default = node.get("default")
        if isinstance(default, str | int | float) and not isinstance(default, bool) and "const" not in node:
            shown = str(default) if default != "" else "empty"
            assert row[1].strip("`") == shown, f"docs/{SPEC_PAGES[kind]}: {row[0]} is {shown}"


def field_node(schema: dict[str, Any], dotted: str) -> dict[str, Any]:
    """The schema of a field; an empty one where its default says nothing (a free key)."""
    node = schema
    for name in dotted.split("."):
        candidates = [node, *node.get("anyOf", []), node.get("items", {})]
        resolved = [schema["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in candidates]
        node = next((one["properties"][name] for one in resolved if name in one.get("properties", {})), {})
    return node


def tables(text: str) -> Iterator[list[list[str]]]:
    """Each table of a page as rows of cells, its header first."""
    for chunk in re.split(r"\n\s*\n", text):
        found = rows(chunk)
        if found:
            yield found


def test_every_engine_and_task_of_a_card_is_named_in_its_row() -> None:
    schema = json_schemas()["model"]
    found = {row[0].strip("`"): row[2] for row in rows(text_of("models.md")) if len(row) == 3}
    assert all(f"`{name}`" in found["engine"] for name in catalog.BUILT_IN)
    assert all(f"`{task}`" in found["task"] for task in schema["$defs"]["Task"]["enum"])


@pytest.mark.parametrize("name", catalog.BUILT_IN)
def test_an_engine_has_a_section_and_a_row_with_its_protocols(name: str) -> None:
    page = text_of("engines.md")
    assert name in sections(page)
    row = next(row for row in rows(page) if row[0] == f"`{name}`")
    assert set(re.findall(r"`(\w+)`", row[2])) == set(catalog.get(name).protocols)


def test_engines_are_listed_in_the_order_in_which_they_are_asked() -> None:
    order = [row[0].strip("`") for row in next(tables(text_of("engines.md")))[1:]]
    assert order == list(catalog.BUILT_IN)


def test_every_word_that_allows_something_is_in_the_page_of_models() -> None:
    listed = {row[1].strip("`") for row in rows(sections(text_of("models.md"))["Safety scan"])}
    assert set(ALLOWANCES) <= listed


def test_every_state_is_in_the_page_of_deployments() -> None:
    found = sections(text_of("deployments.md"))
    for title, states in (("States of a deployment", DeploymentState), ("States of a replica", ReplicaState)):
        listed = {row[0].strip("`") for row in rows(found[title])[1:]}
        assert listed == {state.value for state in states}


def test_the_numbers_of_failing_replicas_are_as_told() -> None:
    told = " ".join(sections(text_of("deployments.md"))["When a replica fails"].split())
    waits = ", ".join(f"{reconcile.backoff_s(failures):.0f}" for failures in range(2, 6))
    assert f"then {waits} s and so on up to {reconcile.backoff_s(99):.0f} s" in told
    before, after = (reconcile.failures_allowed(ever_ready=ever) for ever in (False, True))
    assert f"given up after {before} failures in a row, one that did serve after {after}" in told
    assert f"ready for {reconcile.STABLE_AFTER_S:.0f} s ends the count" in told


def api_routes() -> set[str]:
    """Every route of control as `METHOD /path`; without the HEAD that Starlette adds to every GET."""
    app = create_routes(cast("Verbs", None))
    found = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    waiting: list[tuple[str, Any]] = [("", route) for route in app.routes]
    while waiting:
        prefix, route = waiting.pop()
        if isinstance(route, Mount):
            waiting += [(prefix + route.path, inner) for inner in route.routes]
        elif isinstance(route, Route):
            found |= {f"{method} {prefix}{route.path}" for method in (route.methods or set[str]()) - {"HEAD"}}
    return found


def test_every_route_of_control_is_listed_and_no_other_is() -> None:
    listed = {code for code in codes(text_of("api.md")) if code.startswith(tuple(f"{method} /" for method in METHODS))}
    routes = api_routes()
    assert routes - listed == set(), "docs/api.md lacks routes"
    assert listed - routes == set(), "docs/api.md has routes that are not there"


def error_kinds() -> list[type[errors.HostlerError]]:
    """Every class of the one error tree."""
    kinds = [errors.HostlerError]
    for kind in kinds:
        kinds += [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return kinds


@pytest.mark.parametrize("kind", error_kinds(), ids=lambda kind: kind.__name__)
def test_an_error_is_listed_with_its_code_status_and_exit_code(kind: type[errors.HostlerError]) -> None:
    listed = [[cell.strip("`") for cell in row] for row in rows(text_of("errors.md"))]
    wanted = [kind.__name__, kind.default_code, str(kind.status), str(kind.exit_code), kind.kind]
    assert wanted in listed, f"docs/errors.md lacks the row {' | '.join(wanted)}"


@cache
def codes_in_source() -> dict[str, str]:
    """Every code that is given literally, with its file: `code="..."` in a call, `default_code = "..."` in a class."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            given = isinstance(node, ast.keyword) and node.arg == "code"
            declared = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "default_code"
            if given or declared:
                found.update(dict.fromkeys(literals(cast("ast.keyword", node).value), path.name))
    return found


def literals(value: ast.expr) -> Iterator[str]:
    """The texts an expression can be: a literal, or those of its two sides."""
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp():
            yield from (*literals(value.body), *literals(value.orelse))
        case ast.BoolOp():
            yield from (text for side in value.values for text in literals(side))
        case _:
            return


def test_every_code_of_an_error_is_in_the_page_of_errors() -> None:
    told = codes(text_of("errors.md"))
    missing = {code: place for code, place in codes_in_source().items() if code not in told}
    assert missing == {}, "docs/errors.md lacks codes"


def test_the_page_of_errors_has_no_code_that_nothing_raises() -> None:
    listed = {
        code
        for title, section in sections(text_of("errors.md")).items()
        if title not in ("Errors", "Kinds")
        for row in rows(section)[1:]
        for code in re.findall(r"`([a-z_]+)`", row[0])
    }
    assert listed - set(codes_in_source()) == set()


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = {code for code in codes(text_of(page)) if re.fullmatch(r"tests/\S+\.py", code)}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
