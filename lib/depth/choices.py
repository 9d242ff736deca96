"""The learning rate of every family of methods, chosen on validation text.

``python -m lib.depth.choices`` trains each family at every rate of GRID with random seed 0 at the
size ``tenth``, looks at the watched part of valid only, and prints what CHOSEN must hold.
"""

from __future__ import annotations

GRID = (1e-3, 2e-3, 4e-3)
CHOSEN = {
    "adapted": 2e-3,
    "exits": 2e-3,
    "layerskip": 2e-3,
    "removed": 2e-3,
    "gated": 2e-3,
    "again": 2e-3,
}
TUNED = {  # the method that stands for its family
    "adapted": "adapted",
    "exits": "exits",
    "layerskip": "layerskip",
    "removed": "last_removed_70",
    "gated": "gated",
    "again": "again_hard",
}


def main() -> None:
    """Train at every rate and print the losses."""
    from dataclasses import replace

    from lib.depth.experiments.e20_adaptive_or_fixed_depth import E20
    from lib.depth.run import tune
    from lib.runs.sweep import sweep
    from lib.runs.task import Task

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
