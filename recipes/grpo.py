"""
Trains a decoder-only summarizer by reinforcement, with QUALS as the reward of TRL's GRPOTrainer.

    pip install -c constraints.txt -e '.[trl]'
    python recipes/grpo.py --model_name_or_path Qwen/Qwen3-0.6B --train_file train.jsonl --output_dir results/grpo

`train.jsonl` has a column `document`.
"""

from dataclasses import dataclass, field

from datasets import load_dataset
from transformers import HfArgumentParser
from trl import GRPOConfig, GRPOTrainer

from hf_quals import QualsScorer


@dataclass
class Arguments:
    """What to train, on what."""

    model_name_or_path: str = field(metadata={"help": "The model to train, decoder-only."})
    train_file: str = field(metadata={"help": "A .jsonl file of documents."})
    quals_model: str | None = field(default=None, metadata={"help": "The QAGen; the package's default if left out."})
    prompt: str = field(default="{text}\n\nTL;DR:", metadata={"help": "What the model reads."})


def main():
    args, training_args = HfArgumentParser((Arguments, GRPOConfig)).parse_args_into_dataclasses()
    documents = load_dataset("json", data_files=args.train_file, split="train")
    dataset = documents.map(lambda row: {"prompt": args.prompt.replace("{text}", row["document"])})
    reward = QualsScorer.from_pretrained(args.quals_model).as_reward("document")
    trainer = GRPOTrainer(args.model_name_or_path, reward, training_args, train_dataset=dataset)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
