"""
Finds a model's retrieval heads: those that look at an answer where it stands in the passage while they read it behind
its question. (The paper that named them, https://huggingface.co/papers/2404.15574, counts where a head looks most
while a token is written; here it is the share of its attention while the token is read, as the score has it.)

    python recipes/find_retrieval_heads.py --data squad.json --config quals_config.json

Needs questions with the place of their answers, as SQuAD has them, and no judgement of a summary. Heads are ranked by
the share of their attention that rests on the answer's tokens, mean over questions; the first `--num_heads` go into
the configuration, which counts them with its `attention_weight`. Decoder-only models with a fast tokenizer.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from hf_quals import QAGenModel, QualsConfig
from hf_quals.memory import reuse_freed_memory
from hf_quals.qagen.attention import Head, eager_attention
from hf_quals.qagen.training import Passage, in_normal_form, load_squad
from hf_quals.quals.config import CONFIG_FILE


@dataclass
class Arguments:
    """What to read, and where the heads go."""

    data: str = field(metadata={"help": "Questions in SQuAD's form, a JSON file or a dataset of the Hub."})
    config: str = field(metadata={"help": "The quals_config.json to write the heads into."})
    model: str | None = field(default=None, metadata={"help": "The QAGen model; the package's default if left out."})
    dtype: str = field(default="auto", metadata={"help": "Type of the weights."})
    num_questions: int = field(default=100, metadata={"help": "Questions to read, each of another passage."})
    num_heads: int = field(default=40, metadata={"help": "How many heads are taken."})
    seed: int = field(default=0, metadata={"help": "Which questions are drawn."})


@torch.inference_mode()
def attention_to_answers(qagen: QAGenModel, passages: Sequence[Passage], seed: int = 0) -> Iterator[torch.Tensor]:
    """
    Of one question of each passage the share of every head's attention that rests on the answer in the passage, mean
    over the answer's tokens.

    Args:
        qagen (`QAGenModel`): A decoder-only model with a fast tokenizer.
        passages (`Sequence[Passage]`): Passages with their pairs.
        seed (`int`, *optional*, defaults to 0): Which question of each is taken.

    Yields:
        `torch.Tensor` of shape `(layers, heads)`: of each passage that fits the model.

    Raises:
        `ValueError`: if the model is an encoder–decoder, or writes the answer first.
    """
    if qagen.is_encoder_decoder or not qagen.template.question_first:
        raise ValueError("Retrieval heads are found in decoder-only models that write the question before the answer.")
    draw = random.Random(seed)
    head_of_prompt = qagen.template.prompt.split("{text}")[0]
    before_answer = qagen.template.pair.split("{answer}")[0].rstrip(" ")
    for passage in passages:
        pair = draw.choice(passage.pairs)
        text = qagen.encode([passage.text])[0]
        offsets = qagen.tokenizer(head_of_prompt + passage.text, return_offsets_mapping=True)["offset_mapping"]
        start = len(head_of_prompt) + pair.answer_start
        answer_columns = [
            column for column, (first, last) in enumerate(offsets) if last > start and first < start + len(pair.answer)
        ]
        question = qagen.tokenizer(before_answer.replace("{question}", pair.question), add_special_tokens=False)
        answer = qagen.tokenizer(" " + pair.answer, add_special_tokens=False)["input_ids"]
        if text.truncated or not answer_columns:
            continue
        ids = torch.tensor([[*text.input_ids, *question["input_ids"], *answer]], device=qagen.device)
        with eager_attention(qagen.model):
            attentions = qagen.model(ids, output_attentions=True, use_cache=False).attentions
        # Each of shape (1, heads, queries, keys).
        yield torch.stack(
            [weights[0, :, -len(answer) :, answer_columns].float().sum(-1).mean(-1).cpu() for weights in attentions]
        )


def best_heads(shares: torch.Tensor, number: int) -> tuple[Head, ...]:
    """The heads with the largest shares, of shape `(layers, heads)`, best first."""
    heads = shares.shape[1]
    order = shares.flatten().argsort(descending=True, stable=True)[:number]
    return tuple((index // heads, index % heads) for index in order.tolist())


def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    path = Path(args.config)
    if path.name != CONFIG_FILE:
        raise ValueError(f"config must name a {CONFIG_FILE}, got {path}.")
    config = QualsConfig.from_file(path) if path.exists() else QualsConfig()
    passages = [passage for passage in map(in_normal_form, load_squad(args.data)) if passage.pairs]
    random.Random(args.seed).shuffle(passages)
    qagen = QAGenModel.from_pretrained(args.model, dtype=args.dtype)
    of_model = qagen.model.config.get_text_config()
    most = of_model.num_hidden_layers * of_model.num_attention_heads
    if not 1 <= args.num_heads <= most:
        raise ValueError(f"num_heads must lie between 1 and the model's {most} heads, got {args.num_heads}.")
    found = attention_to_answers(qagen, passages, args.seed)
    shares = list(tqdm(itertools.islice(found, args.num_questions), total=args.num_questions, unit=" questions"))
    if not shares:
        raise ValueError(f"No question of {args.data} could be read: its passages are longer than the model reads.")
    mean = torch.stack(shares).mean(0)
    heads = best_heads(mean, args.num_heads)
    changed = config.but(retrieval_heads=heads)
    changed.save_pretrained(path.parent)
    print(
        f"{len(shares)} questions were read. {path}: {len(heads)} of {mean.numel()} heads, best first, with the share"
    )
    print("of their attention that rests on the answer")
    for layer, head in heads:
        print(f"  layer {layer}, head {head}: {mean[layer, head]:.2f}")
    if changed.calibration != config.calibration:
        print("The calibration was fitted to other heads and is left out: calibrate anew.")
    if not changed.attention_weight:
        print("They count once attention_weight is set, which is 0.")


if __name__ == "__main__":
    main()
