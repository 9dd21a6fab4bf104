"""The inputs that fuzzing has found, and some made from them: the same in each run, and soon done.

scripts/fuzz looks for more, and adds to the corpus what fails.
"""

from __future__ import annotations

from itertools import islice

import pytest

from .targets import CORPUS, TARGETS, corpus, mutations

MUTATED = 100  # inputs for each target


@pytest.mark.heavy
@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs(name: str) -> None:
    for data in corpus(name):
        TARGETS[name](data)


@pytest.mark.heavy
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs(name: str) -> None:
    for data in islice(mutations(corpus(name), seed=1), MUTATED):
        TARGETS[name](data)


def test_each_corpus_has_its_target() -> None:
    assert {file.stem for file in CORPUS.glob("*.hex")} == TARGETS.keys()
