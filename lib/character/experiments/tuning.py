"""Tune every method of Experiment 22 alike, on validation text only.

python -m lib.character.experiments.tuning                          on wikipedia, 20,000 characters
python -m lib.character.experiments.tuning --only irt_1,standard_1  some methods
python -m lib.character.experiments.tuning -p corpus wikitext-2 -p train_chars 50000
--plan    print what it costs and train nothing

For each method in turn the learning rate, then the weight decay, then the dropout, each with and
without an average of the weights (``lib.character.choices`` has the grid). Says first what it
costs. An interrupted tuning goes on where it stopped; after each stage of a method
``results/22_tuning.csv`` and the choices that follow from it are written.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd
import torch

from lib.character import choices
from lib.character.choices import AVERAGES, GRID, KEYS, NUMBERS, SEEDS, Choice
from lib.character.experiments.e22_tuned_baselines import METHODS, Exp22
from lib.character.run import CharacterRun, WindowWork
from lib.character.two_phase_run import TwoPhaseRun
from lib.parameters import listed, typed
from lib.refusals import told
from lib.runs import devices, files
from lib.runs.sweep import SweepFailed, spoken, sweep
from lib.runs.task import Task
from lib.text.corpus import Corpus
from lib.training.loop import train
from lib.training.seeding import seed_weights

TIMED = 12  # updates that are timed to say what a run costs
RUNS = len(SEEDS) * len(AVERAGES) * (sum(map(len, GRID.values())) - len(GRID) + 1)  # of a method


def config_of(method: str, parameters: Exp22, corpus: Corpus) -> CharacterRun | TwoPhaseRun:
    """What is tuned: the method as reported, on a corpus whose test text it cannot see."""
    return parameters.longest(METHODS[method].config(parameters, replace(corpus, test="")))


def seconds_of(config: CharacterRun | TwoPhaseRun) -> float:
    """Processor seconds of a run that lasts all its epochs, from a few updates on this machine."""
    if isinstance(config, TwoPhaseRun):
        shaped = replace(config.head, objective=config.objective, training=config.shaping)
        return seconds_of(shaped) + seconds_of(config.head)
    seed_weights(0)
    windows = config.windows("train"), config.windows("valid")
    for few in (2, TIMED):  # the first updates of a process take longer
        training = replace(config.training, max_updates=few, validations=1)
        work = WindowWork(config.build(), config.objective, windows, training, 0)
        started = time.process_time()
        train(work, training)
    spent = time.process_time() - started
    return spent / TIMED * config.training.epochs * work.updates_an_epoch()


def stage_tasks(
    method: str, config: CharacterRun | TwoPhaseRun, stage: str, fixed: Choice
) -> list[tuple[Task, Choice]]:
    """The runs of a stage, with what each is trained with."""
    function, found = METHODS[method].kind.function, []
    for seed in SEEDS:
        for choice in choices.candidates(stage, fixed):
            label = {"variant": f"{method}, {spelled(choice)}"}
            found.append((Task(function, choice.apply(config), seed, label), choice))
    return found


def spelled(choice: Choice) -> str:
    """A choice in a few words."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:g}" for name, value in asdict(choice).items()
    )


def rows_of(
    method: str, corpus: Corpus, stage: str, pairs: Sequence[tuple[Choice, int, dict | None]]
) -> list[dict[str, Any]]:
    """Rows of the table of tuning; a run that failed has no loss."""
    rows = []
    for choice, seed, record in pairs:
        row = record["row"] if record else {}
        loss = math.log(row["val_ppl"]) if row and math.isfinite(row["val_ppl"]) else None
        rows.append(
            {
                "corpus": corpus.name,
                "train_chars": len(corpus.train),
                "method": method,
                "corpus_sha256": corpus.sha256,
                "stage": stage,
                **asdict(choice),
                "seed": seed,
                "valid_loss": loss,
                "best_epoch": row.get("best_epoch"),
                "seconds": row.get("seconds"),
                "run_id": record["key"] if record else "",
            }
        )
    return rows


def merged(table: pd.DataFrame, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table with rows of one text added; of the same run the first row stays, one with a loss
    before one without. Rows of another text of the same name and size give way, whatever their
    method: methods are compared on one text."""
    own, text = pd.DataFrame(rows), rows[0]
    if len(table):
        same = (table["corpus"] == text["corpus"]) & (table["train_chars"] == text["train_chars"])
        other = same & (table["corpus_sha256"] != text["corpus_sha256"])
        if other.any():
            print(f"{other.sum()} rows of another text of this name give way", flush=True)
        table = table[~other]
    both = pd.concat([table, own], ignore_index=True) if len(table) else own
    both = both.sort_values("valid_loss", key=pd.isna, kind="stable")
    both = both.drop_duplicates([*KEYS, *NUMBERS, "seed"], keep="first")
    return both.sort_index().reset_index(drop=True)


def tune(method: str, parameters: Exp22, corpus: Corpus) -> Choice:
    """Go through the grid with one method; returns what was chosen."""
    blind = replace(corpus, test="")
    config, fixed = config_of(method, parameters, corpus), Choice()
    for stage in GRID:
        known = stage_tasks(method, config, stage, fixed)
        tasks = [task for task, _ in known]
        try:
            records = {id(task): record for task, record in _swept(tasks, parameters)}
        except SweepFailed as failed:
            print(f"{failed}\nthese lose", flush=True)
            records = {id(task): _alone(task, parameters) for task in tasks}
        found = [(choice, task.seed, records[id(task)]) for task, choice in known]
        with files.locked(choices.TABLE.with_name(f".{choices.TABLE.stem}.lock")):
            table = merged(choices.kept(), rows_of(method, blind, stage, found))
            choices.write(table)
        same = (table["method"] == method) & (table["corpus"] == blind.name)
        same &= table["train_chars"] == len(blind.train)
        fixed = choices.best(table[same], choices.candidates(stage, fixed))
        print(f"{method}, {stage}: {spelled(fixed)}", flush=True)
    return fixed


def _swept(tasks: Sequence[Task], parameters: Exp22) -> list[tuple[Task, dict]]:
    device = devices.choose(parameters.device)
    return sweep(tasks, parameters.workers, device, parameters.engine)


def _alone(task: Task, parameters: Exp22) -> dict | None:
    try:
        ((_, record),) = _swept([task], parameters)
    except SweepFailed:
        return None
    return record


@told()
def main(arguments: Sequence[str] | None = None) -> None:
    """Say what it costs, then tune."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help="methods, such as irt_1,standard_1")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[])
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    methods = listed(given.only) or list(METHODS)
    if unknown := [name for name in methods if name not in METHODS]:
        sys.exit(f"no method {', '.join(unknown)}; allowed: {', '.join(METHODS)}")
    parameters = Exp22.checked({name: typed(text) for name, text in given.parameter})
    corpus = parameters.load()
    costs = {name: RUNS * seconds_of(config_of(name, parameters, corpus)) for name in methods}
    for name, cost in costs.items():
        print(f"{name}: {RUNS} runs, at most {spoken(cost)} on one core")
    print(
        f"at most {spoken(sum(costs.values()))} in all, {parameters.workers} at a time; runs that"
        " are finished cost nothing, and early stopping ends most sooner",
        flush=True,
    )
    if given.plan:
        return
    for name in methods:
        tune(name, parameters, corpus)


if __name__ == "__main__":
    main()
