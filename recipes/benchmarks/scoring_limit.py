"""
How close to the machine's own rate does scoring come?

Counts the operations that the method needs, from the model's linear layers (of each generated token of each beam, of
each token of a document and of its pairs; attention is left out), divides them by the time, and compares with the rate
of a large matrix product of the same type, measured in the same run. For several batch sizes, with the process's peak
of memory so far; with one summary at a time the seconds are the latency. Weights are random, and lengths fixed. Prints
one table.

    python recipes/benchmarks/scoring_limit.py

Needs no file and no network; about ten minutes on two CPU cores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from sizes import gemm_rate, linear_operations, machine, peak_memory, random_qagen, random_text, seconds
from transformers import HfArgumentParser

from hf_quals import QAGenModel, QAPair
from hf_quals.files import markdown_table
from hf_quals.memory import reuse_freed_memory


PAIRS = 10


@dataclass
class Arguments:
    """Which models, and how much of what."""

    models: list[str] = field(default_factory=lambda: ["SmolLM2-135M", "BART-base"], metadata={"help": "Shapes."})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 4, 16], metadata={"help": "Texts computed together."})
    document_tokens: int = field(default=650, metadata={"help": "Tokens of a document."})
    summary_tokens: int = field(default=60, metadata={"help": "Tokens of a summary."})
    pair_tokens: int = field(default=22, metadata={"help": "Tokens of a pair."})
    num_beams: int = field(default=60, metadata={"help": "Beams, each a group."})
    repeats: int = field(default=1, metadata={"help": "The median of so many runs counts."})
    device: str = field(default="cpu", metadata={"help": "Where the models compute: cpu, cuda, …"})


def operations(qagen: QAGenModel, args: Arguments) -> tuple[int, int]:
    """Operations of a summary that generation and scoring need."""
    model = qagen.model
    head = linear_operations(model.get_output_embeddings()) or 2 * model.get_output_embeddings().weight.numel()
    generated, scored = args.num_beams * args.pair_tokens, PAIRS * args.pair_tokens
    if qagen.is_encoder_decoder:
        # Keys and values of the encoder's states are those of the text's tokens, not of what is written.
        of_text = linear_operations(model.get_decoder()) - linear_operations(model.get_decoder(), without=_CROSS)
        text = linear_operations(model.get_encoder()) + of_text
        token = linear_operations(model.get_decoder(), without=_CROSS) + head
    else:
        text = linear_operations(model.get_decoder())
        token = text + head
    return args.summary_tokens * text + generated * token, args.document_tokens * text + scored * token


_CROSS = ("encoder_attn.k_proj", "encoder_attn.v_proj")


def measure(qagen: QAGenModel, batch_size: int, args: Arguments) -> list[float]:
    """Seconds a summary of generation and of scoring."""
    vocab_size = qagen.model.config.vocab_size
    documents, summaries = (
        [random_text(tokens, vocab_size, seed) for seed in range(batch_size)]
        for tokens in (args.document_tokens, args.summary_tokens)
    )
    beams = {"num_beams": args.num_beams, "num_beam_groups": args.num_beams}
    lengths = {"min_new_tokens": args.pair_tokens, "max_new_tokens": args.pair_tokens}
    generated: list[list[QAPair]] = []

    def generate():
        generated[:] = qagen.generate(summaries, batch_size=batch_size, **beams, **lengths)

    def score():
        qagen.log_probs(documents, [pairs[:PAIRS] for pairs in generated], batch_size=batch_size)

    return [seconds(function, args.repeats) / batch_size for function in (generate, score)]


@torch.inference_mode()
def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    rate = gemm_rate(args.device)
    table = []
    for name in args.models:
        qagen = random_qagen(name, args.device)
        for batch_size in args.batch_sizes:
            row = [name, str(batch_size)]
            times = measure(qagen, batch_size, args)
            for operation, time in zip(operations(qagen, args), times, strict=True):
                row += [f"{operation / 1e9:.0f}", f"{time:.2f}", f"{operation / time / rate:.0%}"]
            table.append([*row, f"{peak_memory(args.device):.1f}"])
    where = machine(device=args.device)
    print(f"{where}; matrix products run at {rate / 1e9:.0f} GFLOP/s. {args.num_beams} beams.\n")
    columns = [f"{stage}: {what}" for stage in ("pairs", "document") for what in ("GFLOP", "s", "of the rate")]
    print(markdown_table(["model", "batch", *columns, "peak memory so far, GiB"], table))


if __name__ == "__main__":
    main()
