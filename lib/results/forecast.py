"""How long what is left to run took where the committed tables were made, told before training."""

from collections.abc import Collection, Sequence

from lib.parameters import Parameters
from lib.results import store
from lib.runs import places
from lib.runs.sweep import spoken
from lib.runs.task import Task


def forecast(
    slug: str, tasks: Sequence[Task], known: Collection[str], parameters: Parameters, device: str
) -> str:
    """One line: how many runs are left, and their core time by the committed rows of this size.

    ``known``: keys of runs that count as finished. A run that others start from (of another
    notebook, too) counts where it, or a file that it must have left, is not there.
    """
    runs, size, workers = places.runs_folder(), parameters.size, parameters.workers
    left = {task.key(device): task for task in tasks if task.missing(runs, device)}
    left = {key: task for key, task in left.items() if key not in known}
    if not left:
        return "nothing is left to train"
    starts = {
        key: start for task in left.values() for key, start in task.before(runs, device).items()
    }
    starts = {key: start for key, start in starts.items() if key not in left}
    waiting = [task.labels["variant"] for task in left.values() if not task.side]
    if not waiting and not starts:
        return f"{len(left)} to run beside finished ones; the time left is told as runs end"
    what = f"{len(waiting)} to train" if waiting else f"{len(left)} to run beside finished ones"
    if starts:
        what += f", after {len(starts)} that they start from"
    usual: dict[str, float] = {}
    if store.has_committed(slug):
        rows = store.committed(slug)()
        # a row that was made with what it starts from, or on a slow machine, moves no median
        usual = rows[rows["size"] == size].groupby("variant")["seconds"].median().to_dict()
    earlier = store.seconds([start.key() for start in starts.values()])
    if not set(waiting) <= usual.keys() or len(earlier) < len(starts):
        return f"{what}; the time left is told as runs end"
    total = sum(usual[variant] for variant in waiting) + sum(earlier.values())
    return (
        f"{what}; on a core of ours they took {spoken(total)}, with {workers} at once about "
        f"{spoken(total / workers)}"
    )
