"""Early stopping as a rule over the validation curve (R3's open question).

Stopping never changes the epochs before it, so one run of fixed length shows what every patience
would have chosen: the rule is replayed on the curve.
"""

from collections.abc import Sequence


def stop_epoch(losses: Sequence[float], patience: int) -> int:
    """Number of epochs run under `patience`; 0 means no early stopping (all epochs).

    Patience p stops after p epochs in a row without a new best; the report uses 1.
    """
    if patience < 0:
        raise ValueError(f"patience is {patience}; allowed: 0 (never stop) or more")
    best, waited = float("inf"), 0
    for epoch, loss in enumerate(losses, start=1):
        if loss < best:
            best, waited = loss, 0
        else:
            waited += 1
        if patience and waited >= patience:
            return epoch
    return len(losses)


def best_epoch(losses: Sequence[float], patience: int = 0) -> int:
    """Epoch (from 1) with the lowest loss among those run under `patience`; first one of ties."""
    ran = list(losses[: stop_epoch(losses, patience)])
    if not ran:
        raise ValueError("no epoch was run")
    return ran.index(min(ran)) + 1
