import json
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tunfwd.config.toml_lines import Path, line_of, locate

DOCUMENT = '''# a comment with [table] and key = "value"
top = 1
"quoted key" = 'it''s'  # [not.a.table]
dotted . "ke.y" = """
[not a table]
x = 1 \\""" still "" in it
"""
literal = \'\'\'
[[neither]]
\'\'\'

[tox]
udp = true # x = 2
bootstrap = [
    "a:1#b", # first
    "]", 'c',

    ["nested",
     { key = [1,
              2], other = "}" }],
]
date = 1979-05-27 07:32:00Z
[ network . v6 ]   # spaces
mtu=1500

[[rule]]
ports = [1, "2-3"]

[[rule]]
contact = "a"
  [rule.sub]
  deep = {}
  [[rule.list]]
  in = 1
  [[rule.list]]
  in = 2
[[rule]]
'''.replace("'it''s'", "'its'")


def test_every_construction() -> None:
    lines = locate(DOCUMENT)
    expected: dict[Path, str] = {
        ("top",): "top",
        ("quoted key",): '"quoted key"',
        ("dotted", "ke.y"): "dotted",
        ("literal",): "literal",
        ("tox",): "[tox]",
        ("tox", "udp"): "udp",
        ("tox", "bootstrap"): "bootstrap",
        ("tox", "bootstrap", 0): '"a:1#b"',
        ("tox", "bootstrap", 1): '"]"',
        ("tox", "bootstrap", 2): "'c'",
        ("tox", "bootstrap", 3, 0): '"nested"',
        ("tox", "bootstrap", 3, 1, "key"): "{ key",
        ("tox", "bootstrap", 3, 1, "key", 1): "2]",
        ("tox", "bootstrap", 3, 1, "other"): "other",
        ("tox", "date"): "date",
        ("network", "v6"): "[ network",
        ("network", "v6", "mtu"): "mtu",
        ("rule", 0, "ports", 1): '"2-3"',
        ("rule", 1, "contact"): "contact",
        ("rule", 1, "sub"): "[rule.sub]",
        ("rule", 1, "sub", "deep"): "deep",
        ("rule", 1, "list", 0, "in"): "in = 1",
        ("rule", 1, "list", 1, "in"): "in = 2",
    }
    text = DOCUMENT.splitlines()
    for path, there in expected.items():
        assert there in text[lines[path] - 1], path
    assert lines["rule", 2] == len(text)


def test_what_is_not_there_is_near_what_is_around_it() -> None:
    lines = locate("[a]\nb = 1\n[[c]]\n\n[[c]]\n")
    assert line_of(lines, ("a", "missing")) == 1
    assert line_of(lines, ("c", 1, "missing", 0)) == 5
    assert line_of(lines, ()) == line_of(lines, ("nothing",)) == 1


def _paths(value: Any, at: Path = ()) -> list[Path]:
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += _paths(item, (*at, key))
    return found


_key = st.from_regex(r"[a-z0-9_-]{1,3}", fullmatch=True) | st.text("a.=]['#é \\\"", min_size=1, max_size=4)
_string = st.text("ab#[]{}=,'\"\\\n é", max_size=8)
_value = st.recursive(
    st.integers() | st.booleans() | _string,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_key, inner, max_size=3),
    max_leaves=6,
)


def _write(value: object, draw: st.DrawFn) -> str:
    gap = draw(st.sampled_from(["", " ", "\n", " # , ] = [\n\n"]))
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case str() if "'" not in value and "\n" not in value and draw(st.booleans()):
            return f"'{value}'"
        case str() if "\\" not in value and '"' not in value and draw(st.booleans()):
            return f'"""\n{value}"""'
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return f"[{gap}" + "".join(f"{_write(item, draw)}{gap},{gap}" for item in value) + "]"
        case dict():
            return (
                "{"
                + ", ".join(f"{_key_text(key)} = {_write(item, draw)}" for key, item in value.items())
                + "}"
            )
    raise TypeError(value)


def _key_text(key: str) -> str:
    bare = key.isascii() and key.replace("-", "a").replace("_", "a").isalnum()
    return key if bare else json.dumps(key, ensure_ascii=False)


@st.composite
def documents(draw: st.DrawFn) -> str:
    content = draw(st.dictionaries(_key, st.dictionaries(_key, _value, max_size=4), max_size=4))
    lines = []
    for table, keys in content.items():
        array = draw(st.booleans())
        for _ in range(draw(st.integers(1, 3)) if array else 1):
            lines.append(draw(st.sampled_from(["", "# [x]", "   "])))
            lines.append(f"[[{_key_text(table)}]]" if array else f"[ {_key_text(table)} ]")
            lines += [f"{_key_text(key)} = {_write(value, draw)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


@given(documents())
def test_every_path_has_a_line_that_holds_its_key(document: str) -> None:
    content = tomllib.loads(document)
    lines = locate(document)
    text = document.split("\n")
    for path in _paths(content):
        line = text[lines[path] - 1]
        if isinstance(path[-1], str):
            assert _key_text(path[-1]) in line, path
    assert set(lines) == set(_paths(content))
