"""The pages of docs/ as a site: every link leads somewhere, and nothing comes from the network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pruning
from tests.commands import ROOT
from tests.helpers import slow

DOCS = ROOT / "docs"


@slow
def test_it_is_built_and_needs_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem: path.read_text() for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in DOCS.glob("*.md")} <= pages.keys()
    fetched = re.compile(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?https?:[^>]*>')
    assert not [found for page in pages.values() for found in fetched.findall(page) if 'rel="canonical"' not in found]
    anchors = set(re.findall(r'id="(?:pruning[\w.]*\.)?(\w+)"', pages["api"]))
    assert {*pruning.__all__} <= anchors


def test_each_page_has_a_place_in_it() -> None:
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))
