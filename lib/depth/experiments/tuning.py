"""Train every family of methods at every learning rate of the grid; ``choices`` holds what won."""

from dataclasses import replace

from lib.depth.choices import GRID, TUNED
from lib.depth.experiments.e20_adaptive_or_fixed_depth import E20
from lib.depth.run import tune
from lib.runs.sweep import sweep
from lib.runs.task import Task


def main() -> None:
    """Train at every rate and print the losses."""
    parameters = E20.parameters.at("tenth")
    (text,) = parameters.texts()
    tasks = []
    for family, name in TUNED.items():
        config = E20.variants[name].config(parameters, text)
        for rate in GRID:
            training = replace(config.training, learning_rate=rate, validations=1)
            own = replace(config, training=training)
            tasks.append(Task(tune, own, 0, {"variant": f"{family}, rate {rate:g}"}))
    for task, record in sweep(tasks):
        print(f"{task.labels['variant']}: {record['row']['valid_loss']:.4f}")


if __name__ == "__main__":
    main()
