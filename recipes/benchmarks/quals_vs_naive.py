"""
How much faster than the straightforward way is QUALS computed, and is it the same number?

The straightforward way: diverse beam search of 60 groups of one beam, one after the other in Python over the whole
vocabulary, with the text's states or cache repeated for every beam; a second pass over the summary for the pairs'
probabilities; every pair with its own copy of the document. Both ways use the same model and the same published form
(the mean over ten pairs of the difference of mean log-probabilities). For an encoder–decoder and a decoder-only model
of random weights, with pairs of a fixed length. Prints one table.

    python recipes/benchmarks/quals_vs_naive.py

Needs no file and no network; about ten minutes on two CPU cores.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import fmean

import torch
from sizes import machine, random_qagen, random_text
from transformers import DynamicCache, EncoderDecoderCache, HfArgumentParser
from transformers.modeling_outputs import BaseModelOutput

from hf_quals import QAGenModel
from hf_quals.files import markdown_table
from hf_quals.memory import reuse_freed_memory


PAIRS = 10


@dataclass
class Arguments:
    """Which models, and how much of what."""

    models: list[str] = field(default_factory=lambda: ["BART-base", "SmolLM2-135M"], metadata={"help": "Shapes."})
    document_tokens: int = field(default=650, metadata={"help": "Tokens of a document."})
    summary_tokens: int = field(default=60, metadata={"help": "Tokens of a summary."})
    pair_tokens: int = field(default=22, metadata={"help": "Tokens of a pair."})
    num_beams: int = field(default=60, metadata={"help": "Beams, each a group."})
    diversity_penalty: float = field(default=0.5, metadata={"help": "Strength of the Hamming diversity."})
    summaries: int = field(default=8, metadata={"help": "Summaries, each of a document of its own, scored together."})
    straightforward: int = field(
        default=2, metadata={"help": "How many of them are scored in the straightforward way, too: one by one."}
    )
    device: str = field(default="cpu", metadata={"help": "Where the models compute: cpu, cuda, …"})


def naive_search(qagen: QAGenModel, context: list[int], args: Arguments) -> list[list[int]]:
    """Diverse beam search with everything repeated for each beam; ends are forbidden, as lengths are fixed."""
    model, beams = qagen.model, args.num_beams
    repeated = torch.tensor([context] * beams, device=qagen.device)
    if qagen.is_encoder_decoder:
        states = model.get_encoder()(input_ids=repeated[:1]).last_hidden_state.repeat_interleave(beams, dim=0)
        inputs = {"encoder_outputs": BaseModelOutput(last_hidden_state=states)}
        inputs["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
        tokens, name = torch.full_like(repeated[:, :1], qagen.decoder_start_token_id), "decoder_input_ids"
    else:
        inputs, tokens, name = {"past_key_values": DynamicCache()}, repeated, "input_ids"
    written = repeated[:, :0]
    for _ in range(args.pair_tokens):
        log_probs = model(**{name: tokens}, **inputs).logits[:, -1].log_softmax(-1)
        log_probs[:, qagen.eos_token_ids] = -torch.inf
        penalty = torch.zeros_like(log_probs[0])
        chosen = []
        for group in range(beams):
            chosen.append(int((log_probs[group] - penalty).argmax()))
            penalty[chosen[-1]] += args.diversity_penalty
        tokens = torch.tensor(chosen, device=qagen.device)[:, None]
        written = torch.cat([written, tokens], dim=1)
    return written.tolist()


def naive_log_probs(qagen: QAGenModel, context: list[int], pairs: list[list[int]]) -> list[list[float]]:
    """Each pair behind a copy of the text of its own."""
    copies, labels = (torch.tensor(ids, device=qagen.device) for ids in ([context] * len(pairs), pairs))
    if qagen.is_encoder_decoder:
        starts = torch.full_like(labels[:, :1], qagen.decoder_start_token_id)
        logits = qagen.model(input_ids=copies, decoder_input_ids=torch.cat([starts, labels[:, :-1]], dim=1)).logits
    else:
        logits = qagen.model(input_ids=torch.cat([copies, labels], dim=1)).logits[:, len(context) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1).tolist()


def naive_score(qagen: QAGenModel, document: str, summary: str, args: Arguments) -> float:
    document_ids, summary_ids = (text.input_ids for text in qagen.encode([document, summary]))
    written = naive_search(qagen, summary_ids, args)
    given_summary = naive_log_probs(qagen, summary_ids, written)
    best = sorted(range(len(written)), key=lambda number: -sum(given_summary[number]))[:PAIRS]
    given_document = naive_log_probs(qagen, document_ids, [written[number] for number in best])
    return fmean(
        fmean(values) - fmean(given_summary[number]) for number, values in zip(best, given_document, strict=True)
    )


def fast_scores(qagen: QAGenModel, documents: list[str], summaries: list[str], args: Arguments) -> list[float]:
    generated = qagen.generate(
        summaries,
        num_beams=args.num_beams,
        num_beam_groups=args.num_beams,
        diversity_penalty=args.diversity_penalty,
        min_new_tokens=args.pair_tokens,
        max_new_tokens=args.pair_tokens,
        batch_size=args.summaries,
    )
    pairs = [sorted(row, key=lambda pair: -sum(pair.log_probs))[:PAIRS] for row in generated]
    return [
        fmean(fmean(values) - fmean(pair.log_probs) for pair, values in zip(part, row, strict=True))
        for part, row in zip(pairs, qagen.log_probs(documents, pairs, batch_size=args.summaries), strict=True)
    ]


@torch.inference_mode()
def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    table = []
    for name in args.models:
        qagen = random_qagen(name, args.device)
        vocab_size = qagen.model.config.vocab_size
        documents, summaries = (
            [random_text(tokens, vocab_size, seed + number) for number in range(args.summaries)]
            for tokens, seed in ((args.document_tokens, 0), (args.summary_tokens, args.summaries))
        )
        start = time.perf_counter()
        fast = fast_scores(qagen, documents, summaries, args)
        middle = time.perf_counter()
        compared = list(zip(documents, summaries, fast, strict=True))[: args.straightforward]
        naive = [naive_score(qagen, document, summary, args) for document, summary, _ in compared]
        end = time.perf_counter()
        seconds = (end - middle) / len(naive), (middle - start) / args.summaries
        difference = max(abs(score - other) for (*_, score), other in zip(compared, naive, strict=True))
        table.append([name, *(f"{s:.1f}" for s in seconds), f"{seconds[0] / seconds[1]:.1f}", f"{difference:.1e}"])
    print(
        f"{machine(device=args.device)}. {args.num_beams} beams, documents of {args.document_tokens} tokens, "
        f"summaries of {args.summary_tokens}, pairs of {args.pair_tokens}; seconds a summary.\n"
    )
    header = ["model", "straightforward, s", "hf_quals, s", "times as fast", "largest difference of scores"]
    print(markdown_table(header, table))


if __name__ == "__main__":
    main()
