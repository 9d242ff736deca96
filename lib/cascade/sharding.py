"""A stage whose weights are split over processes (FSDP2): gather it, scatter it, refuse the rest.

``torch.distributed.fsdp.fully_shard`` (what accelerate applies with ``fsdp_version`` 2) replaces
every parameter of a module in place by a ``DTensor`` that holds one share. All functions here that
gather are collective: every process calls them, in the same order. For a stage that is not sharded
they change nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lib.cascade.stage import Stage


def is_sharded(module: nn.Module) -> bool:
    """Whether any parameter of ``module`` is split over processes."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def gathered(tensor: Tensor) -> Tensor:
    """The whole tensor, on every process; a tensor that is not sharded comes back as it is."""
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return tensor
    if tensor.device.type != tensor.device_mesh.device_type:  # shares kept in host memory
        tensor = tensor.to(tensor.device_mesh.device_type)
    return tensor.full_tensor()


def scattered(whole: Tensor, like: Tensor) -> Tensor:
    """``whole`` on the device of ``like`` and split as ``like`` is; every process has ``whole``."""
    if not isinstance(like, DTensor):
        return whole.to(like.device)
    # src_data_rank None: each process cuts its share out of its own copy, nothing is sent
    share = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return share.to(like.device)


def whole_stage(stage: Stage) -> Stage:
    """A stage usable in one process: ``stage`` itself, or if it is sharded an unsharded copy.

    The copy is on the CPU, in every process; collective.
    """
    if not is_sharded(stage):
        return stage
    with torch.device("meta"):  # no second initialisation, no draw from the random state
        whole = Stage(
            stage.rotary.config,
            len(stage.layers),
            own_head=stage.head is not None,
            final_norm=stage.norm is not None,
        )
    whole.rotary = LlamaRotaryEmbedding(stage.rotary.config)
    weights = {name: gathered(p).cpu() for name, p in stage.named_parameters()}
    whole.load_state_dict(weights, assign=True)
    return whole.train(stage.training)


def prepared(accelerator, stage: Stage, model: nn.Module, optimizer) -> tuple[nn.Module, object]:
    """``accelerator.prepare`` of a model around ``stage`` and its optimiser.

    Raises ``ValueError`` for wrappings that cannot be trained and saved. Allowed: one process, DDP,
    and FSDP2 whose units are the layers, the norm or the whole.
    """
    allowed = "allowed: one process, DDP, or FSDP with fsdp_version 2"
    if accelerator.distributed_type == "FSDP" and not accelerator.is_fsdp2:
        raise ValueError(f"a stage cannot be sharded with FSDP version 1; {allowed}")
    names = [name for name, _ in stage.named_parameters()]
    model, optimizer = accelerator.prepare(model, optimizer)
    if [name for name, _ in stage.named_parameters()] != names:
        raise ValueError(
            f"wrapping renamed the stage's parameters (activation checkpointing does); {allowed}, "
            "without activation checkpointing"
        )
    units = [module for module in stage.modules() if isinstance(module, FSDPModule)]
    if stage.head is not None and any(stage.head in unit.modules() for unit in units):
        # the loss reads the head's weight outside its forward pass, where it would be a share
        raise ValueError(
            "the head must not lie in an inner FSDP unit; allowed: wrap LlamaDecoderLayer "
            "(transformer-based policy) or nothing but the whole"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if held != {id(p) for p in stage.parameters()}:
        raise ValueError(f"the optimiser does not hold the stage's own parameters; {allowed}")
    return model, optimizer
