"""Holds the pages to the tree: whatever path, page, heading, key or command one of them names is there."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import click
import pytest

from scripts import commands_page
from tunfwd.cli.main import root
from tunfwd.config import document

PROJECT = Path(__file__).resolve().parent.parent
PARTS = ("docs", "netns", "scripts", "tests", "tunfwd")
PAGES = sorted([*PROJECT.glob("*.md"), *(page for part in PARTS for page in (PROJECT / part).rglob("*.md"))])
SOURCES = sorted(
    [
        *(source for part in PARTS for source in (PROJECT / part).rglob("*.py")),
        *(
            script
            for part in ("scripts", "netns")
            for script in (PROJECT / part).iterdir()
            if script.is_file() and not script.suffix
        ),
        PROJECT / "pyproject.toml",
    ]
)


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def prose_of(page: Path) -> str:
    """A page without its blocks of code, which show what people type."""
    return re.sub(r"^(```|~~~).*?^\1", "", page.read_text(), flags=re.M | re.S)


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    targets += re.findall(r"""<(?:img|source|a)[^>]*?(?:src|srcset|href)=["']([^"']+)""", prose_of(page))
    for target in targets:
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and anchor not in anchors_of(place)):
            yield target


def missing_paths(page: Path) -> Iterator[str]:
    """The paths in code style that begin with a folder of the project, and lead nowhere."""
    for code in re.findall(r"`([^`\n]+)`", prose_of(page)):
        for path in re.findall(rf"^(?:\./)?((?:{'|'.join(PARTS)}|\.ci)/[^\s:,]*)", code):
            found = list(PROJECT.glob(path.rstrip("/"))) if "*" in path else [PROJECT / path]
            if not found or not found[0].exists():
                yield path


def names_like(suffix: str, text: str) -> set[str]:
    return set(re.findall(rf"[\w./-]*\w{re.escape(suffix)}\b", text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    assert not list(broken_links(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_that_a_page_names_are_there(page: Path) -> None:
    assert not list(missing_paths(page))


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_pages_that_a_source_names_are_there(source: Path) -> None:
    known = {page.name for page in PAGES}
    assert not {
        name for name in names_like(".md", source.read_text()) if name.rpartition("/")[2] not in known
    }


def test_every_page_is_in_the_index() -> None:
    index = PROJECT / "docs" / "README.md"
    linked = {(index.parent / path).resolve() for path in re.findall(r"\]\(([^)#\s]+)\)", index.read_text())}
    assert not {name_of(page) for page in (PROJECT / "docs").rglob("*.md")} - {
        name_of(page) for page in {*linked, index} if page.is_relative_to(PROJECT)
    }


@pytest.mark.parametrize("part", ["tunfwd", "tunfwd/daemon"])
def test_architecture_names_every_package(part: str) -> None:
    architecture = (PROJECT / "docs" / "architecture.md").read_text()
    packages = {name_of(package.parent) for package in (PROJECT / part).glob("*/__init__.py")}
    assert not {package for package in packages if f"`{package}/`" not in architecture}


def missing_scripts(page: Path) -> Iterator[str]:
    """What people are shown to type that begins with a script or module of the project, and is not there."""
    for path in re.findall(r"(?<![\w/.-])(?:\./)?((?:scripts|netns)/[\w-]+)(?![\w.-])", page.read_text()):
        if not (PROJECT / path).exists() and not (PROJECT / f"{path}.py").exists():
            yield path
    for module in re.findall(r"-m ((?:scripts|netns|tests)(?:\.[a-z_]+)+)(?![\w.])", page.read_text()):
        place = PROJECT / module.replace(".", "/")
        if not place.is_dir() and not place.with_suffix(".py").exists():
            yield module


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_scripts_that_a_page_shows_are_there(page: Path) -> None:
    assert not list(missing_scripts(page))


def steps_of(page: Path, heading: str) -> Iterator[tuple[str, list[Path]]]:
    """What stands below a heading, item by item, with the files that each names, or else its section."""
    below = page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert below, heading
    for part in re.split(r"^### ", below, flags=re.M)[1:]:
        for step in re.split(r"\n(?:(?=\d+\. )|\n)", part):
            for text in (step, part):
                places = [PROJECT / path for path in re.findall(rf"`((?:{'|'.join(PARTS)})/[^`]*)`", text)]
                if places:
                    break
            yield (
                step,
                [file for place in places for file in ([place] if place.is_file() else place.rglob("*.py"))],
            )


def names_missing(page: Path, heading: str) -> Iterator[tuple[str, list[str]]]:
    """The names in code style that occur in none of the files that stand beside them."""
    for step, files in steps_of(page, heading):
        text = "\n".join(file.read_text() for file in files)
        for code in (one for one in re.findall(r"`([^`\n]+)`", step) if "/" not in one):
            for name in re.findall(r"[A-Za-z_]\w+", code.partition("(")[0])[-1:]:
                if not re.search(rf"\b{name}\b", text):
                    yield code, [name_of(file) for file in files[:3]]


def test_where_to_add_something_names_what_is_there() -> None:
    assert not list(names_missing(PROJECT / "docs" / "architecture.md", "Where do I add …"))


# What pages say of commands and of the configuration, held to the program


def configuration_block() -> str:
    page = (PROJECT / "docs" / "configuration.md").read_text()
    found = re.search(r"```toml\n(.*?)```", page, flags=re.S)
    assert found
    return found[1]


def lines_of_tables() -> dict[str, list[tuple[str, bool, str]]]:
    """By table the keys with their values, as the block has them, and whether they are commented out."""
    tables: dict[str, list[tuple[str, bool, str]]] = {}
    table = ""
    for line in configuration_block().splitlines():
        if header := re.match(r"(?:# )?\[+([a-z.]+)\]+", line):
            table = header[1]
        elif key := re.match(r"(# )?([a-z_0-9]+) = (.*)", line):
            tables.setdefault(table, []).append((key[2], key[1] is not None, key[3]))
    return tables


def test_the_configuration_page_has_every_key() -> None:
    documented = lines_of_tables()
    for table in fields(document.Document):
        sort = get_type_hints(document.Document)[table.name]
        rows = sort if is_dataclass(sort) else get_args(sort)[0]
        assert is_dataclass(rows), table.name
        keys = {key for key, _, _ in documented.get(table.name, [])}
        wanted = {field.name for field in fields(rows) if not field.name.startswith("_")}
        assert keys == wanted, table.name


def test_the_configuration_page_has_every_default() -> None:
    written = document.parse(configuration_block(), "the page")
    usual = document.Document()
    for table in fields(document.Document):
        default = getattr(usual, table.name)
        if not is_dataclass(default) or isinstance(default, type):
            continue  # [[rule]] and its like: an example
        for key, commented, _ in lines_of_tables().get(table.name, []):
            said, is_ = getattr(getattr(written, table.name), key), getattr(default, key)
            if key == "range":
                assert said == document.DEFAULT_RANGE
            else:
                assert said == is_, f"[{table.name}] {key}"
            assert not commented or is_ is None, f"[{table.name}] {key} has a default: show it"


def test_examples_of_optional_keys_are_taken() -> None:
    for table, keys in lines_of_tables().items():
        for key, commented, value in keys:
            if commented and is_dataclass(getattr(document.Document(), table)):
                more = "udp = false\n" if key == "proxy" else ""
                document.parse(f"[{table}]\n{more}{key} = {value}\n", key)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_configuration_that_a_page_shows_is_taken(page: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        if "…" not in block:  # of a key, say
            document.parse(block, name_of(page))


def test_the_page_of_commands_is_what_the_program_says() -> None:
    said = (PROJECT / "docs" / "commands.md").read_text()
    assert said == commands_page.page(), "run: python -m scripts.commands_page"


def typed_commands() -> Iterator[tuple[str, str]]:
    """What pages show after a prompt, `$` or `#`, or alone on a line, of our own command."""
    for page in PAGES:
        if page.name in ("CHANGELOG.md", "SPEC.md", "LINK.md"):
            continue
        for line in re.findall(r"^ {4}(?:[a-z0-9]+[$#] *)?(tunfwd [a-z].*)$", page.read_text(), flags=re.M):
            yield name_of(page), re.sub(r"\s+#.*|\s*[;&].*", "", line)
        for line in re.findall(r"`(tunfwd [a-z][^`]*)`", page.read_text()):
            if not re.search(r"[…\[|<{$]|\.\.\.", line):
                yield name_of(page), line


@pytest.mark.parametrize(("page", "line"), sorted(set(typed_commands())))
def test_commands_that_a_page_shows_exist(page: str, line: str) -> None:
    """Each word that should be a command is one, and each option is known there."""
    command: click.Command = root
    words = shlex.split(line.replace("…", "...").replace("\\|", "|"))[1:]
    context = click.Context(root, info_name="tunfwd", **root.context_settings)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(context, words[0].rstrip(","))
        if found is None:
            assert command is not root, f"{page}: {line}"
            break
        command, words = found, words[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known | {"--json", "--help", "--version"}, f"{page}: {line}"
