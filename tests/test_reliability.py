"""docs/reliability.md promises nothing that no test holds."""

import re

from tests.commands import ROOT

TEXT = (ROOT / "docs" / "reliability.md").read_text()
PROMISES = re.findall(r"^- .*(?:\n  .*)*", TEXT.partition("## Not promised")[0], re.M)


def test_each_promise_names_its_test_and_each_test_is_there() -> None:
    there = {
        (path.relative_to(ROOT / "tests").as_posix().removesuffix(".py"), name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(PROMISES) > 20
    for promise in PROMISES:
        named = re.findall(r"`([\w/]+)::(test_\w+)`", promise)
        assert named, f"no test: {promise}"
        for one in named:
            assert one in there, f"there is no {'::'.join(one)}: {promise}"


def test_every_sentence_is_a_promise_or_says_that_it_is_none() -> None:
    before, _, after = TEXT.partition("## Not promised")
    assert after
    sections = re.split(r"^## .*$", before, flags=re.M)[1:]
    for section in sections:
        rest = section
        for promise in PROMISES:
            rest = rest.replace(promise, "")
        assert not rest.strip(), f"neither promised nor excluded: {rest.strip()}"
