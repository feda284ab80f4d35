"""Tiny random BERT models that read whole words, for the judges that classify or read in windows."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast


WORDS = "lewis klitschko joshua fury says that is hurt by his defeat to won lost the in who what when . ?".split()
LABELS = {0: "CORRECT", 1: "INCORRECT"}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def tiny_bert_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_bert(model_class, **options):
    """A random model; large initial weights make its outputs distinct."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        **options,
    )
    return model_class(config).eval()


def save_classifier(folder, labels=LABELS) -> str:
    """A random classifier of two labels and its tokenizer, for windows of up to 200 tokens: more than they share."""
    tiny_bert(BertForSequenceClassification, num_labels=2, id2label=labels).save_pretrained(folder)
    tokenizer = tiny_bert_tokenizer()
    tokenizer.model_max_length = 200
    tokenizer.save_pretrained(folder)
    return str(folder)


def windows_by_hand(ids: list[int], room: int, stride: int) -> list[list[int]]:
    """Pieces of at most `room` ids, each beginning `room - stride` behind the one before."""
    pieces, start = [], 0
    while True:
        pieces.append(ids[start : start + room])
        if start + room >= len(ids):
            return pieces
        start += room - stride
