"""Each command has a man page, which roff reads as it is meant."""

import gzip
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from scripts import man_pages
from tunfwd import __version__

PAGE_OF_COMMANDS = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
MACROS = {"TH", "SH", "B", "PP", "TP", "nf", "fi"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("man")
    man_pages.write(into, datetime(2026, 11, 27, tzinfo=UTC))
    return into


def page(folder: Path, name: str) -> str:
    return gzip.decompress((folder / f"{name}.1.gz").read_bytes()).decode()


def test_every_command_has_one(folder: Path) -> None:
    commands = re.findall(r"^## (tunfwd .*)$", PAGE_OF_COMMANDS.read_text(), flags=re.M)
    assert len(commands) > 50
    wanted = {f"{command.replace(' ', '-')}.1.gz" for command in ["tunfwd", *commands]}
    assert {file.name for file in folder.iterdir()} == wanted


def test_a_page_says_what_help_says(folder: Path) -> None:
    for context in man_pages.commands():
        text = page(folder, context.command_path.replace(" ", "-"))
        shown = text.replace(r"\&", "")
        for sign, spelt in man_pages.SPELT.items():
            shown = shown.replace(str(spelt), chr(sign))
        assert f'"tunfwd {__version__}"' in shown
        assert re.search(r"^\.SH NAME\n\S+ - \w.*[^.]$", shown, flags=re.M), shown
        help_ = (context.command.help or "").replace("\b", "")
        assert set(help_.split()) <= set(shown.split())
        for parameter in context.command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0] in shown


def test_the_first_page_lists_the_commands(folder: Path) -> None:
    text = page(folder, "tunfwd")
    for line in (r"\fBtunfwd-share(1)\fP", ".SH EXIT STATUS", ".SH FILES", "/etc/tunfwd/config.toml"):
        assert line in text


def test_roff_reads_no_text_as_a_macro(folder: Path) -> None:
    for file in folder.iterdir():
        text = gzip.decompress(file.read_bytes()).decode()
        assert "\b" not in text
        for line in text.splitlines():
            assert not line.startswith("'"), f"{file.name}: {line}"
            if line.startswith("."):
                assert line[1:].split()[0] in MACROS, f"{file.name}: {line}"


def test_roff_has_nothing_to_say(folder: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("no groff")
    for file in folder.iterdir():
        command = ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-z"]
        done = subprocess.run(
            command, input=gzip.decompress(file.read_bytes()), capture_output=True, timeout=60, check=True
        )
        assert not done.stderr, f"{file.name}: {done.stderr.decode()}"


def test_text_stays_text() -> None:
    assert man_pages._roff(".so it\n'is \\n -x") == "\\&.so it\n\\(aqis \\en \\-x"
    assert man_pages._roff("a\n\n\b\nb\nc\n\nd") == "a\n\n.nf\nb\nc\n\n.fi\n\nd"
