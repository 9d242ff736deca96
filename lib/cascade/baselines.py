"""What a routed stage must beat: adapting the base's own last layers, for every token alike.

Both baselines add no layer: fine-tuning the last layers, and low-rank matrices (LoRA, Hu et al.
2021, through peft), counted as merged: at inference they cost what the base costs. Both start from
cached states under those layers, so the frozen part of the base is run once for all of them.
"""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import Tensor, nn
from transformers import LlamaModel

from lib.base.pretrained import Base
from lib.runs import files
from lib.runs.places import cache_folder
from lib.runs.tensors import load_tensors, save_tensors
from lib.text.token_stream import TokenWindows

STATES_VERSION = 1  # raised where the numbers of the states change
BATCH = 8  # windows a pass


def states_under(base: Base, windows: TokenWindows, last: int) -> Tensor:
    """Float32 [windows, length, width]: the states that enter the ``last`` layers of the base.

    Computed once and kept beside the features. Raises ``ValueError`` if the base has not so many
    layers.
    """
    depth = len(base.model.model.layers) - last
    if not 0 <= depth < len(base.model.model.layers):
        raise ValueError(f"the base has {len(base.model.model.layers)} layers; {last} are no part")
    name = f"{base.computation} {windows.sha256} {depth} {STATES_VERSION}"
    folder = cache_folder() / "states"
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"
    with files.locked(folder / "lock"):
        files.clear_partial(folder)
        if found := files.kept(path, load_tensors):
            return found[0]["states"]
        needed = windows.tokens * base.model.config.hidden_size * 4
        files.budgeted(folder, needed, "states of the base")
        lower, device = _first_layers(base, depth), base.model.device
        with torch.inference_mode():
            parts = [
                lower(input_ids=rows.to(device), use_cache=False).last_hidden_state.cpu()
                for rows in windows.inputs.split(BATCH)
            ]
        states = torch.cat(parts)
        save_tensors(path, {"states": states})
        return states


def _first_layers(base: Base, depth: int) -> LlamaModel:
    """The base's own embedding and first ``depth`` layers (shared memory), without final norm."""
    config = copy.deepcopy(base.model.config)
    config.num_hidden_layers = depth
    with torch.device("meta"):
        model = LlamaModel(config)
    whole = base.model.model
    model.embed_tokens, model.rotary_emb, model.norm = (
        whole.embed_tokens,
        whole.rotary_emb,
        nn.Identity(),
    )
    model.layers = nn.ModuleList(whole.layers[:depth])
    return model.eval()


class Tail(nn.Module):
    """A copy of the base's last layers with its final norm, which stays frozen."""

    def __init__(self, base: Base, last: int):
        super().__init__()
        config = copy.deepcopy(base.model.config)
        config.num_hidden_layers, config.vocab_size, config.pad_token_id = last, 1, None
        whole = base.model.model
        self.model = LlamaModel(config)
        self.model.embed_tokens = nn.Identity()
        self.model.rotary_emb = whole.rotary_emb
        self.model.layers = copy.deepcopy(whole.layers[-last:])
        for number, layer in enumerate(self.model.layers):
            layer.self_attn.layer_idx = number
        self.model.norm = copy.deepcopy(whole.norm)
        self.requires_grad_(False)

    def forward(self, states: Tensor) -> Tensor:
        """states [rows, length, width] under the layers -> final states, same shape, causal."""
        return self.model(inputs_embeds=states, use_cache=False).last_hidden_state

    def hidden(self, states: Tensor) -> list[Tensor]:
        """The states that enter each layer, then the final ones, each [rows, length, width].

        Not by ``output_hidden_states``: the copied layers keep what the base has hung on them to
        record its own, and all would be recorded twice.
        """
        places = torch.arange(states.shape[1], device=states.device)[None]
        turn = self.model.rotary_emb(states, position_ids=places)
        found = [states]
        for layer in self.model.layers:
            found.append(layer(found[-1], position_embeddings=turn))
        return [*found[:-1], self.model.norm(found[-1])]

    def tune(self, last: int = 1) -> Tail:
        """Make all weights of the ``last`` layers trainable."""
        self.model.layers[-last:].requires_grad_(True)
        return self

    def low_rank(self, trained: float, last: int, seed: int, beside: int = 0) -> Tail:
        """Add LoRA to every matrix of the ``last`` layers, of the rank that comes nearest to
        ``trained`` weights, a further matrix of that rank with ``beside`` rows and columns in all
        counted among them. The rank is left as ``rank``."""
        first = len(self.model.layers) - last
        linear = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and int(name.split(".")[1]) >= first
        }
        sides = sum(m.in_features + m.out_features for m in linear.values()) + beside
        self.rank = rank = max(1, round(trained / sides))
        from peft import LoraConfig, inject_adapter_in_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(
                r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=sorted(linear)
            )
            inject_adapter_in_model(config, self.model)
        return self


def trained_weights(module: nn.Module) -> int:
    """How many weights of a module are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
