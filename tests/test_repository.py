"""What a stranger gets from a clone: a library whose parts point one way, notebooks of one shape,
and nothing of any one machine."""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from unittest.mock import patch

import nbformat
import pandas as pd
import pytest
from conftest import load_tool
from kill_test import ONE_A_STUDY

from lib import notebook, registry
from lib.character.models import growth
from lib.character.objectives import Segments
from lib.parameters import typed
from lib.results import legible, scoreboard, store
from lib.results.claims import UNDECIDED
from lib.results.schema import check
from lib.runs.places import ROOT
from lib.runs.provenance import imports

tool = load_tool("notebooks")

CLONE = (ROOT / ".git").exists() and shutil.which("git") is not None
needs_git = pytest.mark.skipif(not CLONE, reason="not a git clone: there is nothing to ask")
STUDIES = ("character", "cascade", "context", "depth")

# A module imports from its own line and those above it; the longest name that fits counts.
ORDER = (
    ("lib.runs",),
    ("lib.text",),
    ("lib.base",),
    ("lib.checks", "lib.parameters"),
    ("lib.results", "lib.training"),
    ("lib.experiment", "lib.refusals"),
    ("lib.results.tables", "lib.results.beside_reported"),
    ("lib.figures",),
    ("lib.toy",),
    ("lib.notebook",),
    tuple(f"lib.{study}" for study in STUDIES),
    tuple(f"lib.{study}.experiments" for study in STUDIES),
    ("lib.registry",),
    ("lib.results.front",),
    ("lib.golden", "lib.results.pages", *(f"lib.{study}.cost_plan" for study in STUDIES)),
)
PLACE = {name: place for place, names in enumerate(ORDER) for name in names}


def tracked() -> list[str]:
    """Files that git holds; in a download the library's files that are there."""
    if CLONE:
        command = ["git", "ls-files"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("lib/**/*.py"))


TRACKED = tracked()
MODULES = {
    path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): ROOT / path
    for path in TRACKED
    if path.startswith("lib/") and path.endswith(".py")
}
BOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def part(module: str) -> str:
    """The name in ORDER that a module belongs to."""
    names = [name for name in PLACE if module == name or module.startswith(f"{name}.")]
    return max(names, key=len, default="")


def study(module: str) -> str:
    second = module.split(".")[1] if "." in module else ""
    return second if second in STUDIES else ""


def direct(module: str) -> set[str]:
    """Modules that one imports, at its head or inside a function; packages are no modules."""
    return {name for name in imports(MODULES[module]) if name in MODULES and name != "lib"}


def test_imports_point_one_way_and_no_study_reads_another():
    wrong = []
    for module in MODULES:
        if module == "lib":
            continue
        if not part(module):
            wrong.append(f"{module} has no place in the order")
            continue
        for target in direct(module):
            if PLACE[part(target)] > PLACE[part(module)]:
                wrong.append(f"{module} imports {target}, which stands after it")
            if study(module) and study(target) not in ("", study(module)):
                wrong.append(f"{module} imports {target} of another study")
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles():
    graph = {name: direct(name) for name in MODULES if MODULES[name].name != "__init__.py"}
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name] & graph.keys()):
                walk(target, (*above, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_the_order_sees_what_it_forbids(tmp_path):
    path = tmp_path / "m.py"
    path.write_text("def f():\n    from lib.cascade import training\n    import lib.golden\n")
    assert {"lib.cascade", "lib.golden"} <= set(imports(path))
    assert PLACE[part("lib.results.tables")] > PLACE[part("lib.experiment")]
    assert part("lib.character.experiments.e03_x") == "lib.character.experiments"


def test_modules_say_what_they_are_and_import_by_whole_names():
    wrong = []
    for module, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        if text.strip() and not ast.get_docstring(tree):
            wrong.append(f"{module} has no docstring")
        if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)):
            wrong.append(f"{module}: a relative import escapes the hash of a run's code")
        if path.stem in ("utils", "helpers", "common_utils", "misc"):
            wrong.append(f"{module} has a name that says nothing")
    assert not wrong, "\n".join(wrong)


def test_each_run_function_has_a_name_of_its_own():
    named, declared = Counter(), []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                named[node.name] += 1
                if any("run_function" in ast.unparse(made) for made in node.decorator_list):
                    declared.append(node.name)
    assert len(declared) > 20
    assert [name for name in declared if named[name] > 1 or not name.startswith("run_")] == []


def test_files_that_are_named_in_words_exist():
    wrong = []
    for path in TRACKED:
        if path.endswith((".py", ".md")):
            text = (ROOT / path).read_text(encoding="utf-8")
            named = re.findall(r"[`(]((?:lib/|tools/|tests/)?[\w/]+/\w+\.py)[`)]", text)
            wrong += [
                f"{path}: {name}"
                for name in named
                if not any((root / name).is_file() for root in (ROOT, ROOT / "lib"))
                and "NN" not in name
            ]
    assert wrong == []


def test_a_value_that_is_typed_is_a_number_a_word_or_a_text():
    assert [typed(text) for text in ("3", "0.5", "True", "wikipedia", "1,3")] == [
        3, 0.5, True, "wikipedia", (1, 3)
    ]  # fmt: skip


def test_character_experiments_load_without_the_libraries_of_the_other_studies():
    """Nor what only statistics and a compiler need: both cost each worker a second or more."""
    code = """
import sys, torch
import lib.character.experiments.e03_iterative_refinement
from lib.training.optimizers import Adam, AdamW
for kind in (Adam, AdamW):
    weights = torch.nn.Parameter(torch.ones(3))
    weights.grad = torch.ones(3)
    optimizer = kind([weights], fused=True)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
heavy = ("transformers", "peft", "datasets", "IPython", "scipy.stats", "torch._dynamo")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@needs_git
def test_a_clean_clone_imports_from_anywhere(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(clone)!r}); from lib import registry as r; "
        "print(r.__file__, len(r.module_names()), r.experiment('03_iterative_refinement').slug)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(clone) in done.stdout and "03_iterative_refinement" in done.stdout


@needs_git
def test_git_holds_the_library_and_not_what_running_makes():
    made = ["results/runs/x", "results/sets/x", "results/notebooks/x", "results/.x.lock"]
    for name, ignored in [("lib/new.py", 1), ("results/03_x.csv", 1), *((m, 0) for m in made)]:
        found = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT)
        assert found.returncode == ignored, name


# a path below the root that belongs to one machine, not a web address or a git pathspec
MACHINE = re.compile(r"(?<![\w./:!])/(?:home|root|work|Users|mnt)/\w+")
TEXT = (".py", ".ipynb", ".md", ".toml", ".txt", ".csv", ".yml", "run", "Makefile")


def test_no_file_names_a_machine():
    found = []
    for path in TRACKED:
        if path.endswith(TEXT):
            text = (ROOT / path).read_text(encoding="utf-8").replace("\\n", "\n")
            found += [f"{path}: {hit}" for hit in MACHINE.findall(text)]
    assert not found, "\n".join(found)
    for text in ("x = '/{}/me/data'", 'open("/{}/me")', "saved to\n/{}/me/x"):
        assert MACHINE.search(text.format("home"))
    assert not MACHINE.search("https://example.org/{}/me".format("home"))


def requirement_lines(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {re.split(r"[><=]", line)[0]: line for line in lines if line and line[0] not in "#-"}


def test_requirements_are_ranges_and_the_lock_holds_them():
    ranges, dev = requirement_lines("requirements.txt"), requirement_lines("requirements-dev.txt")
    card = "torch transformers datasets matplotlib pandas jupyterlab papermill nbmake"
    assert set(card.split()) <= set(ranges)
    for line in (*ranges.values(), *dev.values()):
        assert ">=" in line and "<" in line and "==" not in line, line
    locks = [ROOT / name for name in ("requirements.lock", "requirements-torch.lock")]
    lines = [line for lock in locks for line in lock.read_text(encoding="utf-8").splitlines()]
    locked = {line.split("==")[0].lower() for line in lines if "==" in line}
    assert {name.lower() for name in ranges} <= locked


def test_the_readme_names_commands_and_files_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.M))
    assert {"run", "test", "reproduce", "verify"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.M), target
    links = re.findall(r"\]\(((?:notebooks|lib|figures|docs|results)/[^)#]+)\)", readme)
    assert [path for path in links if not (ROOT / path).exists()] == []


# --- notebooks -----------------------------------------------------------------------------------

HEADINGS = (
    "## Why it matters",
    "## Parameters",
    "## Ours against the report's",
    "## Figures",
    "## Checks",
    "## Verdict",
    "## What was not tested",
)
OPTIONAL = {"engine"}  # parameters that a notebook need not show


def test_every_experiment_has_a_notebook_and_the_other_way_round():
    assert {p.stem for p in BOOKS if registry.has(p.stem)} == set(registry.module_names())
    for slug in registry.module_names():
        assert registry.experiment(slug).slug == slug


def skeleton(path) -> list[str]:
    """What is wrong with the shape of a notebook."""
    book, found = nbformat.read(path, as_version=4), []
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    places = [text.find(heading) for heading in HEADINGS]
    if -1 in places or places != sorted(places):
        missing = [heading for heading in HEADINGS if heading not in text]
        found.append(f"headings are missing or out of order: {missing}")
    first, second = book.cells[0].source, book.cells[1]
    if not (first.startswith(f"# {path.name[:2]} · ") and first.split("\n")[0].endswith("?")):
        found.append("its title is no question")
    if f"/blob/main/notebooks/{path.name}" not in first:
        found.append("its badge is missing under the title")
    if second.metadata.get("tags") != ["answer"] or "**Asked.**" not in second.source:
        found.append("no answer box stands under the title")
    if path.name < "24" and len(tagged(book, "mechanism")) != 1:
        found.append("no cell shows the lines of the library that are its mechanism")
    if len(book.cells) > 33:
        found.append(f"{len(book.cells)} cells, 33 are allowed")
    for cell in book.cells:
        if cell.cell_type == "code" and "bootstrap" not in cell.metadata.get("tags", []):
            tree = ast.parse(cell.source)
            if any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in ast.walk(tree)):
                found.append("a cell defines what a test cannot import")
    if tool.tagged(book, "bootstrap").source != tool.BOOTSTRAP:
        found.append("its first cell is not the shared one")
    return found + parameters_cell(tool.tagged(book, "parameters"), path.stem)


def parameters_cell(cell, slug: str) -> list[str]:
    """What is wrong with the parameters cell of a notebook."""
    schema, found, literals = registry.experiment(slug).parameters, [], {}
    if cell.metadata.get("nbmake", {}).get("mock") != schema.TINY:
        found.append("its mock is not the tiny size")
    for node in ast.parse(cell.source).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)):
            return [*found, "a parameter is no literal"]
        literals[node.targets[0].id] = node.value.value
    if not set(schema.names()) - OPTIONAL <= set(literals) <= set(schema.names()):
        found.append(f"not one line a parameter: {set(schema.names()) ^ set(literals)}")
    elif schema.checked(literals) != schema():
        found.append("the cell does not repeat the defaults of the library")
    lines = [line for line in cell.source.splitlines() if line.strip()]
    if any("# @param" not in line for line in lines):
        found.append("a line has no form")
    for line in lines:
        name, offered = line.split(" = ")[0], line.partition("# @param ")[2]
        extra = schema.model_fields[name].json_schema_extra or {}
        options = extra.get("options") if isinstance(extra, dict) else None
        if offered.startswith("[") and options and set(json.loads(offered)) != set(options):
            found.append(f"its form offers other values of {name} than are allowed")
    return found


def tagged(book, tag: str) -> list:
    return [cell for cell in book.cells if tag in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_its_mechanism_as_the_library_has_it(path, monkeypatch):
    for cell in tagged(nbformat.read(path, as_version=4), "mechanism"):
        shown = []
        monkeypatch.setattr(notebook, "display", shown.append)
        exec(cell.source, {"notebook": notebook})
        made = [output["data"]["text/markdown"] for output in cell.outputs]
        assert made == [markdown.data for markdown in shown], f"make notebooks NB={path.name[:2]}"


def test_quoted_code_says_where_it_stands_and_leaves_out_its_docstring():
    text = notebook.quoted(Segments.losses)
    assert text.startswith("`lib/character/objectives.py`, `Segments.losses`:\n\n```python\ndef ")
    assert '"""' not in text and "yield loss" in text
    assert "no_grad" not in notebook.quoted(growth.as_identity)  # nor its decorators
    with pytest.raises(TypeError):
        notebook.quoted(Segments(2))


def test_notebooks_have_one_shape():
    found = [f"{p.name}: {fault}" for p in BOOKS if registry.has(p.stem) for fault in skeleton(p)]
    assert not found, "\n".join(found)


def test_a_verdict_that_claims_csv_no_longer_gives_is_named():
    saved = pd.read_csv(scoreboard.PATH)
    own = saved[saved["experiment"] == "exp06"]
    html = legible.page(scoreboard.shown(own))
    output = nbformat.v4.new_output("display_data", data={"text/html": html})
    assert tool.stale_verdicts(output, saved) == []
    first = own.iloc[0]
    saved.loc[own.index[0], "verdict"] = UNDECIDED
    assert first["verdict"] != UNDECIDED
    (fault,) = tool.stale_verdicts(output, saved)
    assert first["verdict"] in fault and first["statement"] in fault


def test_words_are_read_again_when_a_verdict_moves():
    path = ROOT / "notebooks" / "03_iterative_refinement.ipynb"
    book, saved = nbformat.read(path, as_version=4), scoreboard.saved()
    assert tool.words_read.moved(book, path.stem, saved) == []
    turned = saved.copy()
    place = saved.index[saved["id"] == "exp03-irt-beats-standard"][0]
    turned.loc[place, "verdict"] = UNDECIDED
    (told,) = tool.words_read.moved(book, path.stem, turned)
    assert told.startswith("exp03-irt-beats-standard, ") and f"-> {UNDECIDED}" in told
    # a notebook that it cites counts too
    assert "22_tuned_baselines" in tool.words_read.cited(book, path.stem)
    gone = saved[saved["id"] != "exp22-tuned-irt-beats-tuned-standard"]
    told = tool.words_read.moved(book, path.stem, gone)
    assert len(told) == 2 and all(one.endswith("-> no row") for one in told)


def test_committed_outputs_are_complete_and_clean():
    found = [f"{path.name}: {fault}" for path in BOOKS for fault in tool.faults(path)]
    assert not found, "\n".join(found)


def test_committed_tables_are_valid_and_whole():
    for slug in registry.module_names():
        if registry.experiment(slug).pending:
            assert not store.has_committed(slug), f"{slug} is no longer pending"
            continue
        held = store.committed(slug)
        check(held())
        assert not set(held()["size"]) & {"quick", "tiny", "custom"}, slug
        for name in filter(None, held.frames):
            keys = ["variant", "corpus", "size", "seed"]
            known = set(held()[keys].itertuples(index=False, name=None))
            assert set(held(name)[keys].itertuples(index=False, name=None)) <= known, (slug, name)


def test_the_gate_sees_a_stale_and_a_dirty_notebook(tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in ("a = 1", "a + 1")]
    names = "<th></th>" + "<th>val_ppl</th>" * 8
    table = f"<table><thead><tr>{names}</tr></thead><tr><td>NaN</td></tr></table>"
    picture = {"image/png": "iVBOR"}
    cells[1].outputs = [
        nbformat.v4.new_output("display_data", data=data)
        for data in ({"text/html": table}, picture, picture)
    ]
    line = "saved\n/" + "home/me/x"  # at the beginning of a line, where such paths stand
    cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text=line)]
    cells[0].execution_count = 1
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["papermill"] = {"input_path": "/" + "home/me/x.ipynb"}
    path = tmp_path / "03_iterative_refinement.ipynb"
    nbformat.write(book, path)
    found = "; ".join(tool.faults(path))
    for fault in (
        "have changed since",
        "its answer box is not what claims.csv says",
        "an output holds a path of the machine",
        "its metadata hold a path of the machine",
        "its metadata hold papermill",
        "not every cell",
        "more than 7 columns",
        "names a column as the code does",
        "the first column of a table has no name",
        "shows NaN",
        "more than one figure",
        "no alternative text",
    ):
        assert fault in found, fault


def test_the_kill_test_has_an_experiment_of_every_study():
    covered = {
        path.parents[1].name
        for number in ONE_A_STUDY
        for path in ROOT.glob(f"lib/*/experiments/e{number}_*.py")
    }
    assert covered == set(STUDIES)
    nightly = (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    assert f"only: {json.dumps(ONE_A_STUDY)}" in nightly


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda p: p.stem)
def test_every_tool_finds_what_it_imports(path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    with patch.dict(os.environ):
        runpy.run_path(str(path), run_name="imported")
