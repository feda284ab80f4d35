"""
Trains a decoder-only summarizer on S+ and S- with TRL's DPOTrainer, as an alternative to the losses of conseq.py.

    pip install -c constraints.txt -e '.[trl]'
    python recipes/dpo.py --model_name_or_path results/mle --preferences results/conseq/preferences.jsonl \\
        --output_dir results/dpo

`conseq.py` has written the preferences; of a training of your own `hf-quals preferences` does.
"""

from dataclasses import dataclass, field

from datasets import load_dataset
from transformers import HfArgumentParser
from trl import DPOConfig, DPOTrainer


@dataclass
class Arguments:
    """What to train, on what."""

    model_name_or_path: str = field(metadata={"help": "The model to train, decoder-only: that which was sampled."})
    preferences: str = field(metadata={"help": "A .jsonl file with prompt, chosen and rejected."})


def main():
    args, training_args = HfArgumentParser((Arguments, DPOConfig)).parse_args_into_dataclasses()
    dataset = load_dataset("json", data_files=args.preferences, split="train")
    trainer = DPOTrainer(args.model_name_or_path, args=training_args, train_dataset=dataset)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
