"""What Experiment 19 compares: its parameters, its variants and their runs."""

from dataclasses import dataclass, replace

from lib.cascade.adaptation import Adaptation
from lib.cascade.adaptation_text import TextPlan
from lib.cascade.ladder_run import LadderRun
from lib.cascade.ladder_run import run as run_rung
from lib.cascade.material import MaterialHandle
from lib.cascade.rival_run import RivalRun
from lib.cascade.rival_run import run as run_rival
from lib.cascade.speed_run import SpeedRun
from lib.cascade.speed_run import run as run_speed
from lib.cascade.experiments.cascade import CascadeParameters, tasks_of
from lib.parameters import ParameterError, choice, real, reals, whole, wholes
from lib.runs.sweep import Task

EXPERIMENT, SLUG = "cascade_works", "19_cascade_that_works"
BASE, CLOCK = "Base", "Clock"
ROUTED, RANDOM, ALL = "Routed stage", "Random routing", "Stage on all tokens"
TUNED, LOW_RANK = "Last layers tuned", "LoRA"
REVERSED = ", learnt from WikiText-2"
STUDY = "Rate study: "
# each rung changes one thing of the rung before it; the last one is ROUTED
LADDER = (
    "Seed's design",
    "+ base's head",
    "+ starts as the base",
    "+ smaller learning rate",
    "+ base's layers",
    "+ own positions",
    "+ full context",
    ROUTED,
)
ABLATIONS = (
    "Rate / 5",
    "Rate x 5",
    "Trained on highest loss",
    "Trained on all, weighted by loss",
    "Trained on all, unweighted",
    "Weight decay 0.1",
    "No early stopping",
    "Four layers",
)


@dataclass(frozen=True)
class Exp19(CascadeParameters):
    """``rate``: share of tokens that is routed. ``rates``: those at which stages trained on all
    tokens are routed afterwards. ``depths``: how many times ``layers`` such stages have.
    ``budget``: the most FLOPs per token, over the base's, that a routed model may cost.
    ``study_rates``: learning rates tried on ``study_windows`` windows by every kind of arm, with
    one seed; the learning rates of the arms are the best of them on valid, ``all_learning_rates``
    that of each depth. ``wikitext_windows``: how many the reverse direction learns from; 0 leaves
    the second corpus out."""

    text_windows: int = whole(128, 2, 100_000)
    look_windows: int = whole(16, 1, 10_000)
    scored_windows: int = whole(96, 2, 100_000)
    wikitext_windows: int = whole(128, 0, 100_000)
    layers: int = whole(2, 1, 64)
    depths: str = wholes("1,2", 1, 64)
    rival_layers: int = whole(4, 1, 64)
    rate: float = real(0.25, 0.01, 1.0)
    rates: str = reals("0.03,0.1,0.2,0.25,0.35,0.5,0.7,1.0", 0.01, 1.0)
    budget: float = real(1.15, 1.0, 10.0)
    seed_learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    learning_rate: float = real(3.0e-4, 0.0, 1.0, above=True)
    all_learning_rates: str = reals("0.001,0.0003", 0.0, 1.0, above=True, repeats=True)
    tuned_learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    low_rank_learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    study_rates: str = reals("0.0001,0.0003,0.001,0.003", 0.0, 1.0, above=True)
    study_windows: int = whole(96, 0, 100_000)
    batch: int = whole(2, 1, 1_000)
    ladder_seeds: int = whole(3, 1, 1_000)
    ablation_seeds: int = whole(1, 1, 1_000)
    arms: str = choice("all", ("all", "decisive"))

    QUICK = {
        **CascadeParameters.QUICK,
        "text_windows": 6,
        "look_windows": 1,
        "scored_windows": 3,
        "wikitext_windows": 0,
        "depths": "1",
        "all_learning_rates": "0.001",
        "rates": "0.1,0.5,1.0",
        "study_windows": 0,
        "arms": "decisive",
    }
    TINY = {
        **CascadeParameters.TINY,
        "text_windows": 12,
        "look_windows": 2,
        "scored_windows": 4,
        "wikitext_windows": 0,
        "layers": 1,
        "depths": "1,2,4",
        "all_learning_rates": "0.001,0.001,0.001",
        "rival_layers": 3,
        "rates": "0.1,0.5,1.0",
        "budget": 3.0,
        "learning_rate": 1.0e-3,
        "study_rates": "0.001,0.003",
        "study_windows": 4,
    }

    def check(self) -> None:
        """Raises ParameterError unless every depth has its learning rate."""
        if len(self.numbers("depths")) != len(self.numbers("all_learning_rates")):
            raise ParameterError(
                f"depths {self.depths!r} and all_learning_rates {self.all_learning_rates!r} differ "
                "in number; one learning rate for every depth is allowed"
            )

    @property
    def text(self) -> TextPlan:
        """Learning from instructions, scored on both corpora."""
        look = self.look_windows
        return TextPlan(self.text_windows, 2 * look, look, self.scored_windows)

    def counts(self) -> dict[str, int]:
        """With WikiText-2 windows, if any are asked for."""
        if not self.wikitext_windows:
            return super().counts()
        return super().counts() | {
            "wikitext": self.text.scored,
            "wikitext_train": self.wikitext_windows,
            "wikitext_valid": self.text.valid,
        }


def all_tokens(depth: int) -> str:
    """Name of the stage trained on all tokens that is ``depth`` times as deep."""
    return ALL if depth == 1 else f"{ALL}, {depth} times as deep"


def decisive(material: MaterialHandle | None, parameters: Exp19) -> dict[str, LadderRun | RivalRun]:
    """The routed stage and all that it must beat; same text, updates and order, and for the first
    stage, its random twin, tuning and LoRA about equally many trained weights."""
    p = parameters
    rates = tuple(p.numbers("rates"))
    routed = LadderRun(
        material,
        p.text,
        Adaptation(p.learning_rate, p.batch),
        rule="entropy",
        rate=p.rate,
        layers=p.layers,
    )
    every = replace(routed, rule="everything", trained="all", rates=rates)
    stages = {
        all_tokens(depth): replace(
            every, layers=depth * p.layers, training=Adaptation(learning_rate, p.batch)
        )
        for depth, learning_rate in zip(
            p.numbers("depths"), p.numbers("all_learning_rates"), strict=True
        )
    }
    tuned = RivalRun(
        material,
        p.text,
        Adaptation(p.tuned_learning_rate, p.batch),
        "tuned",
        p.layers,
        p.layers,
        p.rival_layers,
    )
    low_rank = replace(
        tuned,
        kind="low-rank",
        layers=p.rival_layers,
        training=Adaptation(p.low_rank_learning_rate, p.batch),
    )
    return {
        ROUTED: routed,
        RANDOM: replace(routed, rule="random", trained="random"),
        **stages,
        TUNED: tuned,
        LOW_RANK: low_rank,
    }


def reversed_arms(
    material: MaterialHandle | None, parameters: Exp19
) -> dict[str, LadderRun | RivalRun]:
    """The first stage on all tokens and the tuned last layers, learnt from WikiText-2."""
    main = decisive(material, parameters)
    plan = replace(parameters.text, train=parameters.wikitext_windows, learnt_from="wikitext")
    return {name + REVERSED: replace(main[name], text=plan) for name in (ALL, TUNED)}


def rate_study(
    material: MaterialHandle | None, parameters: Exp19
) -> dict[str, LadderRun | RivalRun]:
    """Every kind of arm at every learning rate of the study, on less text."""
    main = decisive(material, parameters)
    plan = replace(parameters.text, train=parameters.study_windows)
    deep = {all_tokens(depth): {"rates": ()} for depth in parameters.numbers("depths")}
    arms = {ROUTED: {}, **deep, TUNED: {}, LOW_RANK: {}}
    return {
        study_name(arm, rate): replace(
            main[arm], text=plan, training=replace(main[arm].training, learning_rate=rate), **more
        )
        for arm, more in arms.items()
        for rate in parameters.numbers("study_rates")
    }


def study_name(arm: str, rate: float) -> str:
    """Name of an arm's row in the study of learning rates."""
    return f"{STUDY}{arm} at {rate:g}"


def rungs(material: MaterialHandle | None, parameters: Exp19) -> dict[str, LadderRun]:
    """The ladder but its last rung, each rung named by its one change to the one before."""
    p = parameters
    routed = decisive(material, p)[ROUTED]
    full = replace(routed, rule="last_two_layers")
    own = replace(full, context="packed")
    copied = replace(own, own_positions=False)
    gentle = replace(copied, start="residual")
    quick = replace(routed.training, learning_rate=p.seed_learning_rate)
    residual = replace(gentle, training=quick)
    shared = replace(residual, start="seed-shared-head")
    steps = (replace(shared, start="seed"), shared, residual, gentle, copied, own, full)
    return dict(zip(LADDER[:-1], steps, strict=True))


def ablations(material: MaterialHandle | None, parameters: Exp19) -> dict[str, LadderRun]:
    """Single changes to the last rung."""
    p = parameters
    routed = decisive(material, p)[ROUTED]

    def trained_by(**changes) -> LadderRun:
        return replace(routed, training=replace(routed.training, **changes))

    changed = (
        trained_by(learning_rate=p.learning_rate / 5),
        trained_by(learning_rate=p.learning_rate * 5),
        replace(routed, trained="loss"),
        replace(routed, trained="weighted"),
        replace(routed, trained="all"),
        trained_by(weight_decay=0.1),
        trained_by(keep_last=True),
        replace(routed, layers=2 * p.layers),
    )
    return dict(zip(ABLATIONS, changed, strict=True))


def tasks(material: MaterialHandle, parameters: Exp19) -> list[Task]:
    """The rate study, the base, what decides the claims, then ladder and ablations."""
    p = parameters
    found = _tasks(rate_study(material, p), 1) if p.study_windows else []
    main = decisive(material, p)
    found += _tasks({BASE: replace(main[TUNED], kind="none")}, 1) + _tasks(main, p.seeds)
    if "wikitext_train" in dict(material.counts):
        found += _tasks(reversed_arms(material, p), p.seeds)
    if p.arms == "all":
        found += _tasks(rungs(material, p), min(p.ladder_seeds, p.seeds))
        found += _tasks(ablations(material, p), min(p.ablation_seeds, p.seeds))
    return found


def timings(material: MaterialHandle, parameters: Exp19) -> list[Task]:
    """One clock for every depth."""
    p = parameters
    rates, windows = (0.0, *p.numbers("rates")), min(4, p.test_windows)
    clocks = {
        f"{CLOCK}, {all_tokens(depth)}": SpeedRun(material, depth * p.layers, rates, windows)
        for depth in p.numbers("depths")
    }
    return tasks_of(EXPERIMENT, run_speed, clocks, 1)


def _tasks(variants: dict[str, LadderRun | RivalRun], seeds: int) -> list[Task]:
    """One task a seed and variant, seeds outermost; the function follows from the variant."""
    return [
        Task(
            run_rival if isinstance(config, RivalRun) else run_rung,
            config,
            seed,
            {"experiment": EXPERIMENT, "variant": name},
        )
        for seed in range(seeds)
        for name, config in variants.items()
    ]
