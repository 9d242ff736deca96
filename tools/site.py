"""Build the web site of the project into ``site/``, without the net.

python tools/site.py              sources into build/site, pages into site/
python tools/site.py --sources    sources only

The pages show what is committed: the front pages, executed notebooks, ``results/claims.csv`` and
the tables behind it. Nothing is trained and no notebook is run.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib import registry  # noqa: E402
from lib.results import front, pages, store  # noqa: E402

TEXTS = ROOT / "docs" / "site"
SOURCES = ROOT / "build" / "site"
BUILT = ROOT / "build" / "html"  # Sphinx works here and keeps what has not changed
OUT = ROOT / "site"
CODE = f"https://github.com/{front.REPOSITORY}/blob/{os.environ.get('GITHUB_SHA', 'main')}"
FRONT = {"README.md": "index.md", "README.ja.md": "ja.md"}
ROUTES = "19_cascade_that_works"
MATHJAX = ("sphinx-mathjax-offline", "tex-svg.js")
PLACES = {  # files of the repository that have a page here
    "README.md": "index.md",
    "README.ja.md": "ja.md",
    "results/claims.csv": "claims/index.md",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", action="store_true", help="stop before Sphinx")
    begun = time.monotonic()
    arguments = parser.parse_args()
    write(dict(sources()))
    print(f"sources: {time.monotonic() - begun:.0f} s", flush=True)
    if not arguments.sources:
        command = ["-b", "html", "-q", "--keep-going", "-W", "-d", str(ROOT / "build" / "doctrees")]
        command += [str(SOURCES), str(BUILT)]
        subprocess.run([sys.executable, "-m", "sphinx", *command], check=True)
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(BUILT, OUT)
        (OUT / ".nojekyll").touch()
        found = [path for path in OUT.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in found) / 2**20
        count = sum(path.suffix == ".html" for path in found)
        print(f"{count} pages, {size:.0f} MiB, {time.monotonic() - begun:.0f} s: {OUT}/index.html")


def sources() -> Iterator[tuple[str, bytes]]:
    """Name and content of every source file of the site."""
    site = pages.site(CODE)
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    reported = pages.experiment_pages(site)
    for path in notebooks:
        yield f"notebooks/{path.name}", notebook(path).encode()
    for name in site.reported():
        yield f"claims/{name}.md", pages.claim_page(site, name).encode()
    for name, text in reported.items():
        yield f"claims/{name}", text.encode()
    yield "claims/own.md", pages.own_page(site).encode()
    listed = "\n".join(name.removesuffix(".md") for name in reported)
    table = {"table": pages.claims_table(site), "experiments": listed}
    yield "claims/index.md", filled("claims.md", table).encode()
    yield "pareto.md", filled("pareto.md", {"data": routes()}).encode()
    yield "how.md", (TEXTS / "how.md").read_bytes()
    yield "conf.py", (TEXTS / "conf.py").read_bytes()
    for name, page in FRONT.items():
        if (ROOT / name).is_file():
            text = (ROOT / name).read_text(encoding="utf-8")
            yield page, front_page(text, page, notebooks).encode()
    for path in sorted((ROOT / "figures").glob("*.png")):
        yield f"figures/{path.name}", path.read_bytes()
    for path in sorted((TEXTS / "_static").iterdir()):
        yield f"_static/{path.name}", path.read_bytes()
    yield f"_static/mathjax/{MATHJAX[1]}", mathjax().read_bytes()


def write(made: dict[str, bytes]) -> None:
    """Put the sources into place: unchanged ones keep their time, others from before go."""
    for name, content in made.items():
        path = SOURCES / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for path in SOURCES.rglob("*"):
        name = path.relative_to(SOURCES).as_posix()
        if path.is_file() and name not in made:
            path.unlink()
            (BUILT / name).with_suffix(".html").unlink(missing_ok=True)


def filled(name: str, given: dict[str, str]) -> str:
    """A text of docs/site with what stands in double braces put in. Raises KeyError."""
    text = (TEXTS / name).read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: given[match[1]], text)


def routes() -> str:
    """The points of the cascade's picture as JSON that may stand inside a page."""
    tables = [store.TABLES / f"{ROUTES}{part}.csv" for part in ("_routes", "")]
    if not all(path.is_file() for path in tables):
        return json.dumps({"points": [], "base": {}, "texts": []})
    made = pages.route_points(*(pd.read_csv(path) for path in tables))
    return json.dumps(made, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def notebook(path: Path) -> str:
    """A notebook as committed, without pictures from the net, its links made ours."""
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source, path.parent.relative_to(ROOT), "notebooks")
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):  # one a cell, a test sees to it
                words = output.metadata.get("image/png", {}).get("alt", "")
                cell.metadata["mystnb"] = {"image": {"alt": words}}
    book.cells[:] = [cell for cell in book.cells if cell.source.strip()]
    return nbformat.writes(book)


def front_page(text: str, page: str, notebooks: list[Path]) -> str:
    """A README as a page; the English one holds the table of contents."""
    text = linked(text, Path("."), ".")
    if page != "index.md":
        return f'<div lang="ja">\n\n{text}\n\n</div>\n'
    parts = [_contents("Start", ["how", "ja"] if (ROOT / "README.ja.md").is_file() else ["how"])]
    parts.append(_contents("Claims", ["claims/index", "pareto"]))
    known = registry.module_names()
    studies = dict.fromkeys([*pages.STUDIES, *(name.split(".")[1] for name in known.values())])
    for study in studies:
        title = pages.STUDIES.get(study, study.capitalize())
        own = [p.stem for p in notebooks if known.get(p.stem, "").startswith(f"lib.{study}.")]
        parts.append(_contents(title, [f"notebooks/{name}" for name in own]))
    rest = [p.stem for p in notebooks if p.stem not in known]
    if rest:
        parts.append(_contents("Summary", [f"notebooks/{name}" for name in rest]))
    return "\n\n".join([text, *parts]) + "\n"


def _contents(title: str, entries: list[str]) -> str:
    lines = "\n".join(entries)
    return f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n{lines}\n```"


def linked(text: str, folder: Path, page_folder: str) -> str:
    """Markdown whose links lead to pages here, or to the repository's file on GitHub.

    ``folder`` is where the text lies in the repository, ``page_folder`` where its page does here.
    A badge is a picture from the net: its words take its place.
    """
    text = re.sub(r"!\[([^\]]*)\]\(https?://[^)]*\)", r"\1", text)

    def put(match: re.Match[str]) -> str:
        mark, words, target = match[1], match[2], match[3]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        address, hash_, part = target.partition("#")
        name = os.path.normpath(folder / address).replace(os.sep, "/")
        here = PLACES.get(name, name)
        if mark or name in PLACES or name.startswith("notebooks/"):
            return f"{mark}[{words}]({os.path.relpath(here, page_folder)}{hash_}{part})"
        return f"[{words}]({CODE}/{name}{hash_}{part})"

    return re.sub(r"(!?)\[([^\[\]]*)\]\(([^()\s]+)\)", put, text)


def mathjax() -> Path:
    """The one MathJax file that the pages load. Raises FileNotFoundError with the way to it."""
    package, name = MATHJAX
    for entry in importlib.metadata.files(package) or ():
        if entry.name == name:
            return Path(entry.locate())
    raise FileNotFoundError(f"{name} is not in {package}; pip install -r requirements-site.txt")


if __name__ == "__main__":
    main()
