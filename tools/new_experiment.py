"""Begin an experiment: a module, its notebook and its line of what is outstanding, all of them run.

    make new-experiment NAME=my_idea STUDY=character

Makes lib/<study>/experiments/eNN_my_idea.py (NN: the next free number) from tools/templates and
notebooks/NN_my_idea.ipynb: a baseline and one variant beside it, one claim, one figure. Nothing is
written over, and nothing is left if it cannot be finished.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from notebook_files import nbformat  # noqa: E402

import notebooks  # noqa: E402
from lib import registry  # noqa: E402
from lib.parameters import Parameters  # noqa: E402
from lib.runs import files  # noqa: E402

TEMPLATES = ROOT / "tools" / "templates"
STUDIES = tuple(sorted(path.stem for path in TEMPLATES.glob("*.txt")))
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LONGEST = 40
LAST = 89  # 90 is the scoreboard
PENDING = ROOT / "docs" / "PENDING.md"

CHECKS = {
    "character": """from lib import checks
from lib.character.checks import all_causal

checks.finite(results())
all_causal(experiment)""",
    "cascade": """from lib import checks
from lib.cascade import checks as cascade_checks

checks.finite(results())
cascade_checks.off_is_base(texts[0])""",
    "context": """from lib import checks
from lib.context.checks import check_causal

checks.finite(results())
check_causal(run.layers)""",
    "depth": """from lib.depth import checks

checks.as_many_numbers(experiment, run)
checks.nothing_stops(run)""",
}


class Refused(ValueError):
    """What was asked for cannot be made; the message says what is allowed."""


def checked(name: str, study: str) -> None:
    """Raises Refused for a name or study that will not do, and for a name that is taken."""
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise Refused(
            f"NAME is {name!r}; allowed: small letters and digits in words joined by _, at most "
            f"{LONGEST} characters, a letter first, such as NAME=my_idea"
        )
    if study not in STUDIES:
        raise Refused(f"STUDY is {study!r}; allowed: {', '.join(STUDIES)}")
    if taken := [slug for slug in taken_slugs() if slug[3:] == name]:
        raise Refused(f"NAME is {name!r}, and {taken[0]} exists; allowed: a name of its own")


def taken_slugs() -> list[str]:
    """Slugs that have a module or a notebook."""
    modules = (path.stem[1:] for path in ROOT.glob("lib/*/experiments/e[0-9][0-9]_*.py"))
    books = (path.stem for path in ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))
    return sorted({*modules, *books})


def free_number() -> str:
    """The number after the last. Raises Refused if there is none."""
    used = [int(slug[:2]) for slug in taken_slugs()]
    number = max((n for n in used if n <= LAST), default=-1) + 1
    if number > LAST:
        raise Refused(f"all numbers up to {LAST} are taken in notebooks")
    return f"{number:02d}"


def form(schema: type[Parameters]) -> str:
    """The parameters cell: a line a parameter, at its default, with its field in Colab."""
    kinds = {str: "string", int: "integer", float: "number", bool: "boolean"}
    lines = []
    for name, field in schema.model_fields.items():
        if name == "engine":
            continue
        options = (field.json_schema_extra or {}).get("options")
        shown = json.dumps(options) if options else f'{{type: "{kinds[field.annotation]}"}}'
        value = json.dumps(field.default) if isinstance(field.default, str) else field.default
        lines.append(f"{name} = {value}  # @param {shown}")
    return "\n".join(lines)


def book(slug: str, study: str) -> nbformat.NotebookNode:
    """A notebook of the common shape around an experiment."""
    experiment = registry.experiment(slug)
    module = f"lib.{study}.experiments.e{slug}"
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    bootstrap, parameters = code(notebooks.BOOTSTRAP), code(form(experiment.parameters))
    bootstrap.metadata["tags"], parameters.metadata["tags"] = ["bootstrap"], ["parameters"]
    return nbformat.v4.new_notebook(
        cells=[
            text(f"# {slug[:2]} · {experiment.question}"),
            text(
                "## Why it matters\nWhat the idea is, in a formula if it has one, and who would"
                " use it.\n\n**What would refute it:** the comparison that decides, named before"
                " the full run."
            ),
            bootstrap,
            text(
                "## Parameters\nFull size; change a value here, in the Colab form, or with"
                " `papermill -p`. A wrong name or type\nstops the run in the next cell."
            ),
            parameters,
            code(
                f"from {module} import E{slug[:2]} as experiment\n\n"
                "run = notebook.configure(experiment, globals())\ntexts = run.texts()"
            ),
            text("## Train\nWhat is held equal between the variants, and what is not."),
            code("results = experiment.run(run, texts)"),
            text("## Ours against the report's\nNo report measured this: variants side by side."),
            code(
                "from lib.results import tables\n\n"
                "notebook.show(tables.against_reported(results, experiment, measured_here=False))\n"
                "notebook.beside_ours(experiment, results)"
            ),
            text("## Figures"),
            code(
                'from lib.figures import gallery\n\ngallery.show(experiment, "perplexity", results)'
            ),
            text("## Checks\nThese hold at any size."),
            code(CHECKS[study]),
            text("## Verdict"),
            code("notebook.verdicts(experiment, results)"),
            text("## What was not tested\n* Every limit that a reader should know."),
        ]
    )


def make(name: str, study: str) -> list[Path]:
    """Write module, notebook and the line of what is outstanding; returns module and notebook."""
    checked(name, study)
    number = free_number()
    spoken = name.replace("_", " ").capitalize()
    words = {
        "number": number,
        "name": name,
        "dashed": name.replace("_", "-"),
        "spoken": spoken,
        "question": f"Does {name.replace('_', ' ')} help?",
    }
    template = (TEMPLATES / f"{study}.txt").read_text(encoding="utf-8")
    module = ROOT / "lib" / study / "experiments" / f"e{number}_{name}.py"
    path = ROOT / "notebooks" / f"{number}_{name}.ipynb"
    made = []
    try:
        with module.open("x", encoding="utf-8") as file:
            made.append(module)
            file.write(Template(template).substitute(words))
        registry.module_names.cache_clear()
        with path.open("x", encoding="utf-8") as file:
            made.append(path)
            json.dump(book(path.stem, study), file)
        notebooks.prepare(path)
        files.write_text(PENDING, outstanding(number, name, study))
    except BaseException:
        for half in made:
            half.unlink()
        raise
    return made


def outstanding(number: str, name: str, study: str) -> str:
    """docs/PENDING.md with a line for the experiment at the end of its table."""
    lines = PENDING.read_text(encoding="utf-8").splitlines()
    last = max(place for place, line in enumerate(lines) if line.startswith("|"))
    what = f"| {number} | {name.replace('_', ' ')} ({study}): full size | not measured |"
    return "\n".join([*lines[: last + 1], what, *lines[last + 1 :]]) + "\n"


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    name, study = os.environ.get("NAME", ""), os.environ.get("STUDY", "")
    try:
        module, path = make(name, study)
    except (Refused, files.NoRoom) as refusal:
        sys.exit(str(refusal))
    except OSError as trouble:
        sys.exit(f"{trouble.filename} could not be written: {trouble.strerror.lower()}")
    number = path.name[:2]
    print(
        f"made {module.relative_to(ROOT)}\n"
        f"made {path.relative_to(ROOT)}\n"
        f"docs/PENDING.md lists it\n\n"
        "It runs as it is. What to do next:\n"
        f"  .venv/bin/python tools/experiments.py run --only {number} --size tiny    in seconds\n"
        f"  write question, variants and claim in the module, text in the notebook\n"
        f"  .venv/bin/python tools/notebooks.py prepare --only {number}   after a change of"
        " parameters or question\n"
        f"  make golden NB={number}        keeps its golden numbers\n"
        f"  make run NB={number}           the notebook at the quick size\n"
        f"  make outstanding NB={number}   the full size; then step 5 of CONTRIBUTING.md\n"
        "  .venv/bin/pytest tests/test_front.py tests/test_repository.py tests/test_words.py   what"
        " is missing\n"
    )


if __name__ == "__main__":
    main()
