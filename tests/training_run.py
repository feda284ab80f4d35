"""A contrastive training in a process of its own, to be killed or to be one of several: see `main`."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType
from conftest import tiny_model, tiny_qagen
from contrastive_world import callback, emptied, rows, trainer, weights, without_dropout
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import TrainerCallback

from hf_quals import QualsConfig, QualsScorer


class Counted(QualsScorer):
    """Counts its calls, and kills the process at one of them."""

    calls = 0
    kill_at: int | None = None

    def score(self, documents, summaries, **kwargs):
        type(self).calls += 1
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(documents, summaries, **kwargs)


class KillAtStep(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def take_the_cpu_for_an_accelerator():
    """Accelerate never shards on CPUs: where it is told to use them it trains with DDP, whatever its config says."""
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"


def main(arguments=None):
    """
    Trains in `folder` and writes there `weights.safetensors` and `run.json`.

    `run.json` holds the log, the triples, the candidates and how often the scorer was called.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", default="bart")
    parser.add_argument("--num-rows", type=int, default=16)
    parser.add_argument("--num-triples", type=int, default=6)
    parser.add_argument("--fixed-negatives", action="store_true", help="no QualsCallback; two of four rows have none")
    parser.add_argument("--lora", action="store_true", help="trains an adapter")
    parser.add_argument("--no-dropout", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at-score", type=int, help="SIGKILL at this call of the scorer")
    parser.add_argument("--kill-at-step", type=int, help="SIGKILL behind this step")
    parser.add_argument("--sharded", action="store_true", help="the launcher says how")
    parser.add_argument("--arguments", type=json.loads, default={}, help="training arguments, as JSON")
    options = parser.parse_args(arguments)

    if options.sharded:
        take_the_cpu_for_an_accelerator()
    model = tiny_model(options.family)
    model = without_dropout(model) if options.no_dropout else model
    if options.lora:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    scorer = Counted(tiny_qagen("bart"), QualsConfig(num_beams=8))
    chooser = callback(scorer, num_triples=options.num_triples)
    Counted.calls, Counted.kill_at = 0, options.kill_at_score
    data = rows(options.family, options.num_rows, negatives=options.fixed_negatives)
    if options.fixed_negatives:
        data = emptied(data, [number for number in range(len(data)) if number % 4 < 2])
    run = trainer(
        options.family,
        options.folder,
        model=model,
        data=data,
        eval_dataset=rows(options.family, 5),
        callbacks=[KillAtStep(options.kill_at_step), *([] if options.fixed_negatives else [chooser])],
        **options.arguments,
    )
    run.train(resume_from_checkpoint=options.resume or None)
    if options.sharded:
        run.save_model()
    if run.args.push_to_hub:
        run.push_to_hub()
    if run.is_world_process_zero():
        if options.sharded and options.lora:
            model = PeftModel.from_pretrained(tiny_model(options.family), options.folder)
        elif options.sharded:
            model = type(model).from_pretrained(options.folder)
        save_file(weights(model), options.folder / "weights.safetensors")
        state = chooser.state
        found = {"log": run.state.log_history, "calls": Counted.calls, "kind": run.accelerator.distributed_type}
        if state is not None:
            found["reference_scores"] = state.reference_scores
            found["candidates"] = [[candidates.token_ids, candidates.scores] for candidates in state.candidates]
            found["triples"] = [[triple.document, triple.candidate] for triple in state.triples]
        (options.folder / "run.json").write_text(json.dumps(found))
    if run.accelerator.num_processes > 1:
        # What is tested is done. Gloo's threads now and then abort a process that exits before its peer, or hang in
        # `destroy_process_group`: both leave together, without either.
        run.accelerator.wait_for_everyone()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
