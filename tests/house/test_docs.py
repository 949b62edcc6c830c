"""What the pages tell a reader to do can be done."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import torch

import palinode
from palinode import Draw, EmbeddingLoss, EncoderDecoderConfig, Ltr, LtrObjective, SpecialTokens, TaskData, gpt2
from palinode.audit import FlowSettings, audit_subject, subject_of_config
from palinode.base.seeds import generator
from palinode.cli.main import entry
from palinode.data.task_store import TaskStore
from palinode.spec.code import run_file, user_parts_in
from palinode.spec.load import load

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "findings")
    for path in folder.glob("*.md")
    if path.name != "CHANGELOG.md"
)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
ADDING = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
# tests/checks/test_audit_docs.py runs the blocks of audit.md, because it also compares what they print with the page.
RUN_HERE = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "audit.md"]
EXAMPLES = BLOCK.findall(ADDING)
WHOLE = [text for text in EXAMPLES if "experiment = Experiment(" in text]
USER_CLASSES = ["Largest", "LookBack", "SigmoidAttentionConfig", "GruConfig", "HfLlamaConfig"]
FLOW = FlowSettings(lengths=(1, 2, 3, 17), train_passes=1, draws=2)


def rows_of(text: str) -> list[list[str]]:
    """The cells of every row of a page's tables."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]


def example_of(name: str) -> str:
    """The block that defines this class."""
    (text,) = [text for text in EXAMPLES if f"class {name}(" in text]
    return text


def own_part(name: str) -> type:
    """The user's class of this name, from its block run as a file."""
    Path("example.py").write_text(example_of(name))
    return run_file(Path("example.py")).user_parts[f"user:{name}"]


def leaks(model, objective) -> set[str]:
    """The checks of what flows where that this arm does not pass."""
    report = audit_subject(
        subject_of_config(model, objective, tokenizer_vocab=32, window_tokens=16), checks=("C1",), flow=FLOW
    )
    return {finding.check for finding in report.findings if finding.outcome != "pass"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty directory; what a user's file adds to the search path of modules is taken back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


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


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_every_python_block_of_a_page_runs(page, here):
    """In order, in one namespace, as a reader would run them; a block that cannot run is not marked as Python."""
    names: dict[str, object] = {"__name__": page.stem}
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        exec(compile(block, f"docs/{page.name}, block {number}", "exec"), names)


def test_every_whole_file_of_the_adding_page_is_planned():
    assert [name for name in USER_CLASSES if example_of(name) in WHOLE] == USER_CLASSES
    assert len(WHOLE) == len(USER_CLASSES)


@pytest.mark.parametrize("name", USER_CLASSES)
def test_a_whole_file_of_the_adding_page_is_an_experiment(name, here, capsys):
    """Planning builds the model of every arm: weights that nothing starts are refused there."""
    file = Path("example.py")
    file.write_text(example_of(name))
    assert {name for run in load(file).resolve().runs for name, _ in user_parts_in(run.spec)} == {f"user:{name}"}
    assert entry(["plan", file.name, "--no-measure", "--json"]) == 0
    printed = capsys.readouterr()
    assert (json.loads(printed.out)["runs"], printed.err) == (6, "")


def test_the_task_of_the_adding_page_asks_for_the_largest_number(here):
    task = own_part("Largest")()
    sample = task.sample(50, generator(0, "page"))
    assert torch.equal(sample.tokens[sample.answers], sample.tokens[:, : task.length].amax(1))
    assert len(TaskStore(TaskData(task=task)).held_out("validation")) == 1000


def test_the_mixer_of_the_adding_page_reads_as_far_as_it_says(here):
    config = own_part("LookBack")(back=2)
    model = gpt2(layers=1, width=8, heads=2).with_(mixer=config, position="none").build(5, 6, 0)
    row = torch.tensor([[0, 1, 2, 3, 4, 0]])
    before, after = model.hidden(row, Ltr()), model.hidden(row.index_fill(1, torch.tensor([1]), 4), Ltr())
    assert (before != after).any(-1)[0].tolist() == [False, True, False, True, False, False]
    assert model.reach_slots(Ltr()) == 2


def test_the_objective_of_the_adding_page_predicts_the_token_after_next(here):
    example = own_part("SkipOne")().example(torch.arange(6)[None], Draw({}), SpecialTokens(6))
    assert (example.inputs.tolist(), example.targets.tolist()) == ([[0, 1, 2, 3]], [[2, 3, 4, 5]])


def test_the_visibility_of_the_adding_page_is_every_other_slot(here):
    mask = own_part("EveryOther")().mask(4)
    assert mask.tolist() == [[i >= j and (i - j) % 2 == 0 for j in range(4)] for i in range(4)]


def test_the_own_pass_of_the_adding_page_reads_a_prefix_both_ways_and_predicts_the_rest(here):
    objective = own_part("PrefixLm")(prefix_tokens=3)
    example = objective.example(torch.arange(6)[None], Draw({}), SpecialTokens(6))
    assert example.inputs.tolist() == [[SpecialTokens(6)["[L]"], 0, 1, 2, 3, 4]]
    assert (example.targets.tolist(), example.loss_weight.tolist()) == ([[0, 1, 2, 3, 4, 5]], [[0, 0, 0, 1, 1, 1]])
    mask = example.groups[0].sees.mask(6)
    assert mask[:3, :3].all()
    assert torch.equal(mask[3:], Ltr().mask(6)[3:])
    assert torch.equal(objective.scorable(6), example.loss_weight[0] > 0)
    assert leaks(gpt2(layers=2, width=16, heads=2), objective) == set()


@pytest.mark.parametrize("name", ["GruConfig", "HfLlamaConfig"])
def test_a_model_of_the_adding_page_is_a_function_of_its_seed_and_leaks_nothing(name, here):
    config = own_part(name)(width=16)
    before = torch.get_rng_state()
    one, same, other = (config.build(20, 16, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was touched"
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert leaks(config, LtrObjective()) == set()


@pytest.mark.nightly  # by day its block runs as part of the page, and its mixer is built and audited
def test_the_mixer_of_the_adding_page_passes_the_contract_suite_when_it_stands_in_the_table(here):
    """Its block as printed, run as a module of the package; then the suite that every built-in mixer passes."""
    Path("printed.py").write_text(example_of("SigmoidAttentionConfig"))
    program = f"""
import sys, types
import pytest
sys.path.insert(0, {str(ROOT / "tests" / "contracts")!r})
import mixer_variants
from palinode.models.mixers import MIXERS
module = types.ModuleType("palinode.models.mixers.sigmoid_attention")
exec(compile(open("printed.py").read(), "printed.py", "exec"), vars(module))
added = module.SigmoidAttentionConfig
MIXERS[added.kind] = added
mixer_variants.VARIANTS[added.kind] = added()
sys.exit(pytest.main(["-q", "-k", f"{{added.kind}} or of_the_table", {str(ROOT / "tests" / "contracts" / "test_mixers.py")!r}]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("config", [EncoderDecoderConfig, EmbeddingLoss])
def test_every_choice_of_the_encoder_decoder_is_on_its_page(config):
    for name, field in config.model_fields.items():
        if choices := get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
            (row,) = [cells for cells in rows_of(ADDING) if f"`{name}`" in cells[0]]
            assert [choice for choice in choices if f"`{choice}`" not in row[1]] == [], name


def test_the_page_has_every_option_of_the_embedding_loss_with_its_default_first():
    page = ADDING[ADDING.index("| option of `EmbeddingLoss`") :]
    rows = rows_of(page[: page.index("\n\n")])[2:]
    defaults = {cells[0].strip("`"): re.match(r"`?([\w.]+)", cells[1]).group(1) for cells in rows}
    assert defaults == {name: written(field.default) for name, field in EmbeddingLoss.model_fields.items()}


def written(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_defaults_on_the_page_of_experiments_are_those_of_the_classes():
    """As TOML writes them, and `null` for no value."""
    checked = []
    for cells in rows_of((ROOT / "docs" / "experiment.md").read_text(encoding="utf-8")):
        if (named := re.match(r"`(\w+)`: ", cells[-1])) is None:
            continue
        cls = getattr(palinode, named.group(1))
        fields = re.findall(r"`(\w+)(?: = ([^`]*))?`", cells[-1][named.end() :])
        assert sorted(name for name, _ in fields) == sorted(cls.model_fields)
        for name, default in fields:
            field = cls.model_fields[name]
            assert bool(default) != field.is_required(), name
            if default:
                assert field.get_default(call_default_factory=True) == as_default(default, field), name
        checked.append(cls.__name__)
    assert checked == ["RunSettings", "Arm", "Scale", "Size", "Tuning", "Decision"]


def as_default(text: str, field):
    """What TOML reads; a list is a tuple, and an empty table of a config is that config's own defaults."""
    value = None if text == "null" else tomllib.loads(f"value = {text}")["value"]
    if value == {} and isinstance(field.annotation, type):
        return field.annotation()
    return tuple(value) if isinstance(value, list) else value


def test_the_tables_that_the_contributing_page_names_exist():
    rows = rows_of((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))[2:]
    assert len(rows) > 8
    for _, written, listed, tested in ([cell.strip(" |") for cell in cells] for cells in rows):
        name, path = re.fullmatch(r"`(\w+)` in `([\w/.]+)`", listed).groups()
        assert re.search(rf"^{name}\b.* = ", (ROOT / "src" / "palinode" / path).read_text(), re.MULTILINE), listed
        (place,) = re.findall(r"in `([\w/.]+)`", written)
        assert (ROOT / "src" / "palinode" / place).exists(), written
        assert (ROOT / tested.strip("`")).exists(), tested
