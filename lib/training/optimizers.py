"""Adam and AdamW without torch's compiler, which these two would load at the first step.

Nothing is compiled here, and loading it takes 1.7 s of every process that trains: of each notebook
and each worker of a sweep. The numbers are torch's own, step by step.
"""

import inspect

import torch
from torch.optim import Optimizer


class _Uncompiled(Optimizer):
    """What torch wraps for its compiler, unwrapped."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)


class Adam(_Uncompiled, torch.optim.Adam):
    """torch's Adam."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(_Uncompiled, torch.optim.AdamW):
    """torch's AdamW."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
