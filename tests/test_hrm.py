"""Which parts of HRM learn, and what its memories hold."""

import pytest
import torch

from lib.character.models.hrm import HRMConfig
from lib.character.models.infini_attention import InfiniAttention, Memory
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import Segments

SYMBOLS = torch.randint(97, (4, 64), generator=torch.Generator().manual_seed(0))


def learning(config: HRMConfig) -> set[str]:
    """The parameters that have received a gradient over two segments."""
    torch.manual_seed(0)
    model, objective = config.build(97), Segments(2)
    objective.begin_epoch()
    for loss in objective.losses(model, SYMBOLS, SYMBOLS):
        loss.backward()
    named = model.named_parameters()
    return {name for name, p in named if p.grad is not None and p.grad.abs().sum() > 0}


def test_the_l_module_learns_under_the_original_update_only():
    original, refactored = (learning(HRMConfig(update=u)) for u in ("original", "refactored"))
    parts = [{name.split(".")[0] for name in found} for found in (original, refactored)]
    assert parts[0] - parts[1] == {"low"} and {"high", "head"} <= parts[1]


def test_of_the_memory_cells_only_reading_in_the_h_module_learns():
    # what is written is read one segment later, without gradient; and L is never trained at all
    found = {name for name in learning(HRMConfig(memory="hidden")) if "memory" in name}
    assert found == {f"high_memory.{part}.weight" for part in ("query", "output", "gate")}


def test_an_empty_memory_reads_zero_and_writing_fills_it():
    memory = Memory.empty(2, 4, 64, torch.zeros(1))
    keys, values = torch.randn(2, 4, 8, 16), torch.randn(2, 4, 8, 16)
    assert memory.read(keys).abs().max() == 0
    assert memory.write(keys, values).read(keys).abs().max() > 0


def test_memory_off_equals_an_empty_memory_bit_for_bit():
    torch.manual_seed(0)
    on = HRMConfig(memory="input").build(97)
    off = HRMConfig(memory="input", memory_off=True).build(97)
    off.load_state_dict(on.state_dict())
    with torch.no_grad():  # in the first segment of a batch nothing is stored yet
        assert torch.equal(on(SYMBOLS), off(SYMBOLS))
        second = [Segments(2).predict(model, SYMBOLS) for model in (on, off)]
    assert not torch.equal(*second)


def test_infini_attention_without_memory_is_gated_local_attention():
    torch.manual_seed(0)
    layer = InfiniAttention(64, 4)
    x = torch.randn(2, 9, 64)
    out, _ = layer(x, Memory.empty(2, 4, 64, x))
    torch.testing.assert_close(out, 0.5 * layer.attention(x), atol=1e-6, rtol=1e-5)


def test_carry_hands_on_memory_within_an_epoch_only():
    torch.manual_seed(0)
    model = HRMConfig(memory="input").build(97)
    objective = Segments(2, carry=True)
    objective.begin_epoch()
    list(objective.losses(model, SYMBOLS, SYMBOLS))
    assert objective._begin(model, SYMBOLS).memories[0].normaliser.abs().sum() > 0
    assert objective._begin(model, SYMBOLS[:2]).memories[0].normaliser.abs().sum() == 0
    objective.begin_epoch()
    assert objective._begin(model, SYMBOLS).memories[0].normaliser.abs().sum() == 0


@pytest.mark.parametrize("config", [HRMConfig(), TransformerConfig()])
def test_only_a_model_with_memory_hands_it_on(config):
    objective = Segments(2, carry=True)
    objective.begin_epoch()
    with pytest.raises(ValueError, match="has no memory"):
        list(objective.losses(config.build(97), SYMBOLS, SYMBOLS))


@pytest.mark.parametrize(("field", "value"), [("update", "new"), ("memory", "output")])
def test_unknown_words_are_refused(field, value):
    with pytest.raises(ValueError, match="allowed"):
        HRMConfig(**{field: value})
