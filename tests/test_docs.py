"""Holds the pages to the tree: whatever path, page or heading one of them names is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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
