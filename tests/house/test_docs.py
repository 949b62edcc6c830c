"""What the pages tell a reader to do can be done."""

import re
from pathlib import Path

import pytest

from palinode.cli.main import entry
from palinode.spec.load import load

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "findings")
    for path in folder.glob("*.md")
    if path.name != "CHANGELOG.md"
)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_toml_file_of_the_page_is_an_experiment(tmp_path):
    [text] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "experiment.md").read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "mine.toml"
    file.write_text(text)
    experiment = load(file)
    assert len(experiment.resolve().runs) == 2 * 2 * 3
    assert len(experiment.resolve("smoke").runs) == 2 * 2


def test_the_way_of_the_readme_can_be_walked(tmp_path, monkeypatch, capsys):
    """The file that it makes has the size and the name that the next lines use."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line.split("#")[0].split() for line in lines if line.startswith("palinode ")]
    assert [words[1] for words in commands] == ["new", "plan", "audit", "run", "report"]
    monkeypatch.chdir(tmp_path)
    new, plan, _, run, report = commands
    assert entry(new[1:]) == 0
    experiment = load(Path(new[2]))
    assert run[-2:] == plan[-2:] == ["--size", report[2].rpartition("--")[2]]
    resolved = experiment.resolve(run[-1])
    assert report[2] == f"{resolved.name}--{resolved.size}"
    capsys.readouterr()
