import pytest
import torch
from conftest import tiny_tokenizer
from transformers import DataCollatorForSeq2Seq, default_data_collator

from hf_quals import DataCollatorForContrastiveSeq2Seq
from hf_quals.contrastive.data import ContrastiveDataset


ROWS = [{"input_ids": [5, 6], "labels": [7]}, {"input_ids": [8], "labels": [9, 10]}, {"input_ids": [4], "labels": [4]}]


def test_the_dataset_shows_its_rows_until_triples_are_set_and_then_the_triples():
    dataset = ContrastiveDataset(ROWS)
    assert [dataset[number] for number in range(len(dataset))] == ROWS
    dataset.set_triples([2, 0], [[11, 12], [13]])
    assert len(dataset) == 2
    assert dataset[0] == {"input_ids": [4], "labels": [4], "negative_labels": [11, 12]}
    assert dataset[1] == {"input_ids": [5, 6], "labels": [7], "negative_labels": [13]}
    dataset.set_triples([1, 1], [[14], [15]])
    assert dataset[0]["negative_labels"] == [14]


def test_workers_of_a_dataloader_see_the_triples_of_their_epoch():
    dataset = ContrastiveDataset(ROWS)
    loader = torch.utils.data.DataLoader(dataset, num_workers=1, collate_fn=lambda batch: batch)
    dataset.set_triples([0, 1], [[11], [12]])
    assert [row["negative_labels"] for [row] in loader] == [[11], [12]]
    dataset.set_triples([0, 1], [[21], [22]])
    assert [row["negative_labels"] for [row] in loader] == [[21], [22]]


@pytest.mark.parametrize(
    ("numbers", "negatives", "message"),
    [([0], [], "needs its negative"), ([3], [[1]], "between 0 and 2"), ([0, 1], [[1], [1]], "must stay 1")],
)
def test_triples_that_do_not_fit_are_refused(numbers, negatives, message):
    dataset = ContrastiveDataset(ROWS)
    dataset.set_triples([0], [[1]])
    with pytest.raises(ValueError, match=message):
        dataset.set_triples(numbers, negatives)


def collator(**changed):
    return DataCollatorForContrastiveSeq2Seq(DataCollatorForSeq2Seq(tiny_tokenizer("bart")), **changed)


def test_a_batch_without_negatives_is_the_wrapped_collators():
    with_empty = [{**row, "negative_labels": negative} for row, negative in zip(ROWS, (None, [], None), strict=True)]
    expected = DataCollatorForSeq2Seq(tiny_tokenizer("bart"))([dict(row) for row in ROWS])
    for features in (ROWS, with_empty):
        batch = collator()(features)
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_negatives_are_padded_with_minus_100_beside_rows_without():
    features = [{**ROWS[0], "negative_labels": [1, 2, 3]}, ROWS[1], {**ROWS[2], "negative_labels": [4]}]
    batch = collator(pad_to_multiple_of=4)(features)
    assert batch["negative_labels"].tolist() == [[1, 2, 3, -100], [-100] * 4, [4, -100, -100, -100]]
    assert batch["labels"].tolist() == [[7, -100], [9, 10], [4, -100]]
    assert features[0]["negative_labels"] == [1, 2, 3]  # the rows are left as they are


def test_negatives_are_padded_as_the_wrapped_collator_pads_and_its_tokenizer_is_at_hand():
    wrapped = DataCollatorForSeq2Seq(tiny_tokenizer("bart"), pad_to_multiple_of=8)
    features = [{**row, "negative_labels": [1, 2, 3]} for row in ROWS]
    assert DataCollatorForContrastiveSeq2Seq(wrapped)(features)["negative_labels"].shape == (3, 8)
    assert DataCollatorForContrastiveSeq2Seq(wrapped, pad_to_multiple_of=5)(features)["negative_labels"].shape == (
        3,
        5,
    )
    assert DataCollatorForContrastiveSeq2Seq(wrapped).tokenizer is wrapped.tokenizer
    assert not hasattr(DataCollatorForContrastiveSeq2Seq(default_data_collator), "tokenizer")
