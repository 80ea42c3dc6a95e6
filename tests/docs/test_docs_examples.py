"""What the pages show is true: links lead somewhere, YAML is valid, commands parse, no path of one machine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from doc_pages import DOCS, ROOT, Block, anchors, blocks, links, pages, prose

from hostler.cli.main import root
from hostler.spec.documents import read_document
from hostler.spec.yaml_text import load_yaml

MACHINE_PATHS = ("/work/", "/root/", "/home/", "/Users/")
SHELL_WORDS = ("|", "||", "&&", ";", "<", ">", ">>", "2>&1", "&")
EXAMPLES = [block for block in blocks() if block.info == "yaml"]
SHELL = [block for block in blocks() if block.info == "sh"]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leads out of the project"
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), f"{page.name}: {link} has no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    waiting, reached = [ROOT / "README.md"], set[Path]()
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
        waiting += [target for target in targets if target.suffix == ".md" and target.is_relative_to(ROOT)]
    numbered = {page for page in DOCS.rglob("*.md") if page.parent.name == "decisions"}
    assert set(pages()) - numbered <= reached


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.where)
def test_a_yaml_example_is_valid(block: Block) -> None:
    documents = load_yaml(block.text, block.where)
    assert documents, f"{block.where}: it is empty"
    for document in documents:
        read_document(document, where=block.where)


def test_every_block_says_what_it_is() -> None:
    assert [block.where for block in blocks() if not block.info] == []


def command_lines(block: Block) -> list[str]:
    """The lines of a block that call `hostler`, joined where they go on."""
    lines = block.text.replace("\\\n", " ").splitlines()
    bare = [re.sub(r"^((\w+=\S+|export) +)+", "", line.strip()).removeprefix(".venv/bin/") for line in lines]
    return [line for line in bare if line.startswith("hostler ")]


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.where)
def test_a_command_in_an_example_parses(block: Block) -> None:
    for line in command_lines(block):
        words = shlex.split(line, comments=True)[1:]
        end = next((index for index, word in enumerate(words) if word in SHELL_WORDS), len(words))
        check_command(words[:end], f"{block.where}: {line}")


def check_command(words: list[str], where: str) -> None:
    """Fail unless these words name a command, options it has, and its arguments."""
    command: click.Command = root
    while isinstance(command, click.Group) and words:
        context = click.Context(command, info_name="hostler")
        found = command.get_command(context, words[0])
        assert found is not None, f"{where}: there is no command {words[0]!r}"
        command, words = found, words[1:]
    context = click.Context(command, info_name="hostler")
    try:
        values, left, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        pytest.fail(f"{where}: {error.format_message()}")
    assert left == [], f"{where}: {left} is too much"
    for parameter in command.params:
        if parameter.required:
            assert parameter.name in values, f"{where}: {parameter.name} is missing"


def test_no_page_names_a_path_of_one_machine() -> None:
    shown = [*pages(), *DOCS.rglob("*.svg")]
    found = [(page.name, path) for page in shown for path in MACHINE_PATHS if path in page.read_text("utf-8")]
    assert found == []


def test_every_example_folder_that_a_page_names_is_there() -> None:
    for page in pages():
        for place in re.findall(r"\bexamples/[\w./-]*\w", page.read_text("utf-8")):
            assert (ROOT / place).exists(), f"{page.name}: there is no {place}"


def test_every_make_target_that_a_page_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    for page in pages():
        text = page.read_text("utf-8")
        named = set(re.findall(r"`make ([a-z-]+)`", prose(text)))
        named |= set(re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE))
        assert named <= targets, f"{page.name}: there is no target {', '.join(named - targets)}"


def test_pages_of_the_architecture_and_decisions_are_short() -> None:
    long = [
        page.name
        for page in pages()
        if page.parent.name in ("architecture", "decisions") and len(page.read_text("utf-8").splitlines()) > 60
    ]
    assert long == []
