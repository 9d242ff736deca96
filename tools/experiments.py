"""Run experiments without their notebooks: long runs, other texts, sizes between.

python tools/experiments.py run --only 14 --size full               what is not finished yet
python tools/experiments.py run --only 03 -p corpus wikitext-2      any parameter, checked
--variants exits,gated   some variants of one experiment; published rows of the others stay
--seeds 2,3  train these only, so that machines share an experiment; what is finished stays
--recorded   rows that are committed count as finished
--publish    merge the tables into results/, as runs end (a report's sizes only)

An interrupted run goes on where it stopped, in the middle of a training too; what has ended by then
is published. Figures and claims are made from published tables: make figures, make claims.
"""

import argparse
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib import registry  # noqa: E402
from lib.parameters import (  # noqa: E402
    SIZES,
    ParameterError,
    Parameters,
    check_environment,
    listed,
    typed,
)
from lib.refusals import told  # noqa: E402
from lib.results import store  # noqa: E402


def chosen(only: str) -> list[str]:
    """Slugs of the experiments that ``only`` lists by number. Exits for one that is not there."""
    slugs = list(registry.module_names())
    wanted = [part.zfill(2) for part in listed(only)]
    numbers = {slug[:2]: slug for slug in slugs}
    if missing := [number for number in wanted if number not in numbers]:
        sys.exit(f"no experiment {', '.join(missing)}; allowed: {', '.join(numbers)}")
    return [numbers[number] for number in wanted] or slugs


def parameters(slug: str, size: str, given: list[list[str]]) -> Parameters:
    """The checked parameters of a size with some values replaced."""
    schema = registry.experiment(slug).parameters
    if size not in schema.sizes():
        raise ParameterError(f"{slug} has no size {size!r}; allowed: {', '.join(schema.sizes())}")
    kinds = {name: field.annotation for name, field in schema.model_fields.items()}
    values = {name: typed(text, kinds.get(name, object)) for name, text in given}
    return schema.checked({**schema.preset(size), **values})


def typed_seeds(text: str) -> list[int]:
    """The seeds that were typed. Raises ParameterError for what is no whole number."""
    if wrong := [part for part in listed(text) if not part.isdecimal()]:
        raise ParameterError(f"--seeds has {wrong[0]!r}; allowed: whole numbers, such as 2,3")
    return [int(part) for part in listed(text)]


def checked(slugs: list[str], given: argparse.Namespace) -> dict[str, Parameters]:
    """The parameters of every experiment. Raises ParameterError for whatever was typed that one of
    them refuses, before the first is run."""
    check_environment()
    found = {slug: parameters(slug, given.size, given.parameter) for slug in slugs}
    for slug, own in found.items():
        registry.experiment(slug).check_variants(listed(given.variants))
        if given.publish and own.size in store.UNPUBLISHED:
            fit = ", ".join(size for size in type(own).sizes() if size not in store.UNPUBLISHED)
            raise ParameterError(
                f"{slug}: size {own.size} is not published; allowed: --publish at {fit}, values "
                "unchanged"
            )
    return found


def run(slugs: list[str], given: argparse.Namespace) -> None:
    """Run the experiments one after the other; publishes what has ended even if some runs fail."""
    asked, seeds = checked(slugs, given), typed_seeds(given.seeds)
    for slug, own in asked.items():
        print(f"\n{slug}, size {own.size}", flush=True)
        experiment = registry.experiment(slug)
        published = partial(store.publish, variants=tuple(experiment.variants))
        results = experiment.run(
            own, None, published if given.publish else None, listed(given.variants), seeds
        )
        if given.publish:
            print(f"published: {', '.join(published(results))}", flush=True)


@told()
def main() -> None:
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("action", choices=("run",))
    parser.add_argument("--only", default="", help="numbers, such as 03,14")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[])
    parser.add_argument("--variants", default="", help="ids, such as exits,gated")
    parser.add_argument("--seeds", default="", help="some random seeds, such as 2,3")
    parser.add_argument("--recorded", action="store_true")
    parser.add_argument("--publish", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    if given.recorded:
        os.environ["DEPTH_RECORDED"] = "1"
    run(chosen(given.only), given)


if __name__ == "__main__":
    main()
