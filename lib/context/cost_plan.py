"""What a context experiment will cost, run by run, before anything is trained.

    python -m lib.context.cost_plan 18          hours of one core at the full size
    python -m lib.context.cost_plan 18 tenth    at another size

The products of Phase 1, Phase 2 and evaluation are counted, Adam by parameters and the recurrence
by the weights it reads; the three rates are measured in CPU seconds, which a busy machine does not
change much. Phase 1 is taken to stop where the report's did, and a Phase 2 to run all its epochs:
patience makes it shorter.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lib.context.agreement_run import AgreementRun
from lib.context.block import ContextBlock
from lib.context.block_run import BlockRun
from lib.context.contexts import steps
from lib.context.features import IN_MEMORY
from lib.context.language_run import LanguageRun
from lib.context.scaling_run import ScalingRun, beginning
from lib.context.sources import Recurrent, TruncatedBptt, Window
from lib.context.token_stream import StreamChoice, first, tokenise
from lib.experiment import Experiment
from lib.parameters import FULL
from lib.refusals import told
from lib.runs.key import described, digest
from lib.training.loop import Training

ITERATIONS = {"every_layer": 7}  # of Phase 1 in the report, and
OTHER_ITERATIONS = 22
BACKWARD = 3  # forward and backward together, times forward
HOUR = 3600
STUDY = ".context."  # in the name of the module of an experiment that is planned here


@dataclass(frozen=True)
class Rates:
    """One core's multiply-adds, Adam parameters, and bytes of weights read step by step, a
    second."""

    products: float
    adam: float
    streamed: float


def measured_rates() -> Rates:
    """The rates of this machine at SmolLM2's width; takes about three seconds of CPU time."""
    width = 576
    a, b = torch.randn(512, 2 * width), torch.randn(width, 2 * width)
    parameter = torch.nn.Parameter(torch.zeros(1_000_000))
    parameter.grad = torch.ones_like(parameter)
    adam = torch.optim.Adam([parameter], fused=True)
    block = ContextBlock(width, width, 6)
    x = torch.randn(50, width)
    streamed = 4 * len(x) * sum(layer.a * layer.linear.out_features for layer in block.layers)
    return Rates(
        512 * 2 * width * width * _per_second(lambda: a @ b.t()),
        parameter.numel() * _per_second(adam.step),
        streamed * _per_second(lambda: steps(block, x)),
    )


def _per_second(work: Callable[[], object]) -> float:
    work()
    count, started = 0, time.process_time()
    while time.process_time() - started < 1.0:
        work()
        count += 1
    return count / (time.process_time() - started)


@dataclass(frozen=True)
class Cost:
    """Hours of one core of a run: Phase 1, the recurrences, Phase 2."""

    phase_one: float
    contexts: float
    phase_two: float

    @property
    def total(self) -> float:
        return self.phase_one + self.contexts + self.phase_two


def untrained(data: StreamChoice, choice: Recurrent | TruncatedBptt) -> ContextBlock:
    """A block of the size of a choice."""
    return ContextBlock(choice.width, data.token_width, choice.layers, choice.layout)


def block_products(block: ContextBlock) -> int:
    """Multiply-adds of a block for one token."""
    return sum(p.numel() for p in block.parameters() if p.dim() == 2)


class Planner:
    """Costs of the runs of one experiment; a block that several share is counted once."""

    def __init__(self, rates: Rates):
        self.rates = rates
        self.known: set[str] = set()

    def cost(self, config: object, seed: int) -> Cost | None:
        """The cost of a configuration; None for what takes no time to speak of."""
        if isinstance(config, AgreementRun):
            block = untrained(config.data, config.contexts)
            sweeps = (config.sweeps + 2) * config.data.tokens * block_products(block)
            return Cost(
                self._phase_one(config.data, config.contexts, seed),
                self._steps(block, config.data.tokens) + sweeps / self.rates.products / HOUR,
                0.0,
            )
        if isinstance(config, LanguageRun):
            return self._trained(config.data, config.contexts, [config.training], seed)
        if isinstance(config, ScalingRun):
            short = beginning(config.recipes, config.data.tokens - 1)
            trainings = [recipe.training for recipe in config.recipes if recipe is not short]
            return self._trained(config.data, config.contexts, trainings, seed)
        return None

    def _phase_one(self, data: StreamChoice, choice: Recurrent, seed: int) -> float:
        if choice.phase_one is None:
            return 0.0
        key = digest([described(BlockRun(data.training(), choice.cell())), seed])
        if key in self.known:
            return 0.0
        self.known.add(key)
        iterations = min(
            ITERATIONS.get(choice.layout, OTHER_ITERATIONS), choice.phase_one.max_iterations
        )
        work = BACKWARD * (iterations - 1) * data.tokens * block_products(untrained(data, choice))
        return work / self.rates.products / HOUR

    def _steps(self, block: ContextBlock, tokens: int) -> float:
        weights = sum(
            layer.a * layer.linear.out_features * (2 if layer.residual else 1)
            for layer in block.layers
        )
        return 4 * tokens * weights / self.rates.streamed / HOUR

    def _trained(
        self,
        data: StreamChoice,
        choice: Recurrent | Window | TruncatedBptt,
        trainings: Sequence[Training],
        seed: int,
    ) -> Cost:
        d, held_out = data.token_width, data.valid_tokens + data.test_tokens
        phase_one = contexts = again = trained = 0.0
        if isinstance(choice, Window):
            widths = [(choice.count - 1) * d] * choice.layers
        else:
            block = untrained(data, choice)
            widths, products = block.widths, block_products(block)
            if isinstance(choice, TruncatedBptt):
                trained = products
            else:
                phase_one = self._phase_one(data, choice, seed)
                contexts = self._steps(block, data.tokens + held_out)
                made_again = 4 * data.tokens * sum(widths) > IN_MEMORY
                again = products if made_again else 0
        rows = output_rows(data)
        model = sum((width + d) * d for width in widths) + rows * d
        seconds = 0.0
        for training in trainings:
            updates = training.epochs * -(-(data.tokens - 1) // training.batch_size)
            seen = training.epochs * data.tokens
            if training.max_updates:
                updates = training.max_updates
                seen = updates * training.batch_size
            evaluated = training.epochs * held_out
            work = seen * (BACKWARD * (model + trained) + again) + evaluated * (model + trained)
            seconds += work / self.rates.products + updates * (model + trained) / self.rates.adam
        return Cost(phase_one, contexts, seconds / HOUR)


def output_rows(data: StreamChoice) -> int:
    """Types with a row of their own in the head."""
    ids = tokenise(data.corpus.train, data.load_embedding())
    count = data.tokens if data.scoring == "full" else data.vocabulary_tokens
    return len(first(ids, count).unique())


def plan(experiment: Experiment, parameters, texts: Sequence, rates: Rates) -> list[dict]:
    """A row a run in the order in which they are computed: variant, seed and hours."""
    planner, rows = Planner(rates), []
    for task in experiment.tasks(parameters, texts):
        cost = planner.cost(task.config, task.seed)
        if cost is not None:
            named = {"variant": task.labels["variant"], "seed": task.seed}
            named["tokens"] = task.config.data.tokens
            rows.append({**named, **vars(cost), "total": cost.total})
    return rows


def report(rows: Sequence[dict], rates: Rates) -> str:
    """The plan as lines of text, with running and final sums."""
    lines = [
        f"one core: {2 * rates.products / 1e9:.0f} GFLOP/s in products, Adam "
        f"{rates.adam / 1e6:.0f} M parameters/s, recurrence {rates.streamed / 1e9:.1f} GB/s",
        f"{'variant':<34}{'seed':>5}{'tokens':>9}{'Phase 1':>9}{'contexts':>9}{'Phase 2':>9}"
        f"{'hours':>8}{'sum':>8}",
    ]
    total = 0.0
    for row in rows:
        total += row["total"]
        lines.append(
            f"{row['variant']:<34}{row['seed']:>5}{row['tokens']:>9,}{row['phase_one']:>9.2f}"
            f"{row['contexts']:>9.2f}{row['phase_two']:>9.2f}{row['total']:>8.2f}{total:>8.1f}"
        )
    return "\n".join(lines)


@told()
def main(given: Sequence[str] | None = None) -> None:
    """Print the plan of an experiment at a size. Exits for one of another study."""
    from lib import registry

    slugs = {slug[:2]: slug for slug, name in registry.module_names().items() if STUDY in name}
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("number", choices=list(slugs))
    parser.add_argument("size", nargs="?", default=FULL)
    chosen = parser.parse_args(given)
    experiment = registry.experiment(slugs[chosen.number])
    if chosen.size not in (sizes := experiment.parameters.sizes()):
        parser.error(f"no size {chosen.size!r}; allowed: {', '.join(sizes)}")
    parameters = experiment.parameters.at(chosen.size)
    torch.set_num_threads(1)
    rates = measured_rates()
    print(report(plan(experiment, parameters, experiment.texts(parameters), rates), rates))


if __name__ == "__main__":
    main()
