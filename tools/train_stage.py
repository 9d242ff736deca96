"""Train one CASCADE stage and save base + stage as a transformers model.

    python tools/train_stage.py --out my_cascade
    accelerate launch --num_processes 4 tools/train_stage.py --out my_cascade
    torchrun --nproc-per-node 2 tools/train_stage.py --base tiny --device cpu --out tiny_cascade

Two processes on a machine without GPU: accelerate starts several processes of its own only with
--multi_gpu (or through MPI); --device cpu then makes them CPU processes. With --cpu alone it starts
one.

    accelerate launch --multi_gpu --num_processes 2 --main_process_port 0 \\
        tools/train_stage.py --base tiny --device cpu --out tiny_cascade

Stage, gradients and moments split over GPUs (FSDP2; version 1 is refused):

    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 4 \\
        --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP \\
        --fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer \\
        tools/train_stage.py --out my_cascade

One process or many, one machine or several: the features are collected in shares, the global batch
stays the same, and so do the numbers up to rounding. The frozen base is never sharded: each process
holds the whole of it to collect features. Interrupted, it goes on from its checkpoint (which every
process reads, so that machines need a common folder).
"""

import argparse
import json
import sys
from pathlib import Path

from accelerate import Accelerator

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.cascade.difficulty import COSINES, HEAD_CRITERIA, threshold_for  # noqa: E402
from lib.cascade.evaluation import hard_mask, score_handed_on  # noqa: E402
from lib.cascade.features import collect  # noqa: E402
from lib.cascade.material import instruction_windows  # noqa: E402
from lib.cascade.modeling import CascadeForCausalLM  # noqa: E402
from lib.cascade.packing import arrange, select  # noqa: E402
from lib.cascade.sharding import whole_stage  # noqa: E402
from lib.cascade.stage import HEADS, new_stage  # noqa: E402
from lib.cascade.training import StageTraining, train  # noqa: E402
from lib.base.pretrained import load_base  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the saved model")
    parser.add_argument("--base", default="auto")
    parser.add_argument("--corpus", default="auto")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--windows", type=int, default=512, help="training windows of 128 tokens")
    parser.add_argument("--test-windows", type=int, default=32)
    parser.add_argument(
        "--criterion",
        default="last_two_layers",
        choices=COSINES[:3] + HEAD_CRITERIA[1:3] + HEAD_CRITERIA[:1],
    )
    parser.add_argument("--hard-ratio", type=float, default=0.1)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--head", default="shared", choices=HEADS)
    parser.add_argument("--initial", default="identity", choices=("random", "identity"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4, help="packs of 128 a step, over all")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--checkpoint-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="", help="cpu, or empty for what accelerate finds")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    accelerator = Accelerator(cpu=given.device == "cpu")
    base = load_base(given.base, accelerator.device)
    windows, corpus, _ = instruction_windows(
        base,
        "stream",
        {"train": given.windows, "valid": 1, "test": given.test_windows},
        given.corpus,
        given.data_dir,
    )
    train_features = collect(base, windows["train"])
    test_features = collect(base, windows["test"])
    chosen = select(train_features, "hard", given.hard_ratio, given.criterion)
    packs = arrange(chosen, "packed", train_features.tokens)
    threshold = threshold_for(
        train_features.scalars[given.criterion], given.hard_ratio, given.criterion
    )
    head = base.model.lm_head.weight
    stage = new_stage(
        base.model.config, given.layers, given.head, given.initial, head.cpu(), seed=given.seed
    )
    settings = StageTraining(
        given.steps,
        given.batch,
        given.learning_rate,
        "linear",
        clip=1.0,
        checkpoint_steps=given.checkpoint_steps,
    )
    given.out.mkdir(parents=True, exist_ok=True)
    checkpoint = given.out / "checkpoint.safetensors"
    curve = train(
        stage,
        train_features.final,
        train_features.labels,
        packs,
        settings,
        given.seed,
        head,
        checkpoint,
        accelerator,
        f"{base.sha256} {given.head} {given.initial}",
    )
    stage = whole_stage(stage)  # every process takes part
    if accelerator.is_main_process:
        stage.cpu()
        base.model.cpu()
        rules = [{"criterion": given.criterion, "threshold": threshold}]
        CascadeForCausalLM.assemble(base, [stage], rules).save_pretrained(given.out)
        base.tokenizer.save_pretrained(given.out)
        checkpoint.unlink(missing_ok=True)
        mask = hard_mask(test_features, given.criterion, threshold)
        scores = score_handed_on(
            stage, test_features, mask, "packed", base.tokenizer.eos_token_id, head.cpu()
        )
        print(
            json.dumps(
                {
                    "corpus": corpus,
                    "processes": accelerator.num_processes,
                    "train_loss": curve[-1]["train_loss"],
                    **scores,
                }
            )
        )
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
