import contextlib
import csv
import json
import math
import os
import pickle
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from unittest.mock import ANY

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY_TEMPLATE, tiny_model
from typer.testing import CliRunner

import hf_quals
from hf_quals import QualsScorer, cli
from hf_quals.cli import app
from hf_quals.comparing.partial import PartialScores
from hf_quals.qagen.identity import identity_in_memory, weights_identity


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
COMMAND = [sys.executable, "-m", "hf_quals.cli", "score"]
# Without mpirun, `accelerate launch --cpu --num_processes 2` starts one process. --multi_gpu starts two, of any kind.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
TWO_PROCESSES = [sys.executable, *LAUNCH, "-m", "hf_quals.cli", "score"]


def run(*arguments, command=COMMAND):
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )


def output_of(*arguments):
    """What `hf-quals score` prints in this process, where it succeeds."""
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def invoke(*arguments):
    """Exit status and standard error of `hf-quals score` in this process."""
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


def rows(count, seed=0):
    rng = random.Random(seed)
    return [
        {
            "id": number,
            "document": "".join(rng.choices("abcdefgh ", k=60)) + "x",
            "summary": "x" + "".join(rng.choices("abcdefgh ", k=15)),
        }
        for number in range(count)
    ]


def write_jsonl(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tiny_causal_folder):
    """40 rows scored by one unbroken run: the path of the input, that of the output, and what was printed."""
    folder = tmp_path_factory.mktemp("scored")
    source = write_jsonl(folder / "in.jsonl", rows(40))
    result = run(source, "--output", folder / "out.jsonl", "--model", tiny_causal_folder, "--batch-size", 1, "--pairs")
    assert result.returncode == 0, result.stderr
    return source, folder / "out.jsonl", result.stdout


def test_rows_keep_their_columns_and_get_their_scores(scored):
    _, output, printed = scored
    results = read_jsonl(output)
    assert [{key: row[key] for key in ("id", "document", "summary")} for row in results] == rows(40)
    with_score = [row["quals"] for row in results if row["quals"] is not None]
    assert with_score
    for row in results:
        assert row["quals_num_pairs"] == len(row["quals_pairs"])
        assert (row["quals"] is None) == (row["quals_num_pairs"] == 0)
        if row["quals_pairs"]:
            mean = sum(pair["score"] for pair in row["quals_pairs"]) / len(row["quals_pairs"])
            assert row["quals"] == pytest.approx(mean)
    assert f"mean QUALS {sum(with_score) / len(with_score):.4f}" in printed
    assert f"{40 - len(with_score)} unscored, 0 documents and 0 summaries truncated" in printed


def test_killed_run_goes_on_and_ends_as_an_unbroken_one(scored, tmp_path, tiny_causal_folder):
    source, expected, _ = scored
    output = tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial.jsonl"
    arguments = [source, "--output", output, "--model", tiny_causal_folder, "--batch-size", 1, "--pairs"]
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= 9):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    # The worst moment: a line half written.
    with partial.open("ab") as file:
        file.write(b'{"quals": -0.5, "quals_nu')

    status, error = invoke(*arguments)
    assert (status, "Pass --resume or --overwrite" in error) == (2, True), error
    status, error = invoke(*arguments, "--resume", "--max-pairs", 3)
    assert (status, "max_pairs: 10 then, 3 now" in error) == (2, True), error

    before = partial.read_bytes().count(b"\n") - 1
    assert 8 <= before < 40
    resumed = run(*arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert output.read_bytes() == expected.read_bytes()
    assert not partial.exists()


def test_terminated_run_says_how_to_go_on(tmp_path, tiny_causal_folder):
    source = write_jsonl(tmp_path / "in.jsonl", rows(400))
    arguments = [source, "--output", tmp_path / "out.jsonl", "--model", tiny_causal_folder, "--batch-size", 1]
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "out.jsonl.partial.jsonl"
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= 5):
        time.sleep(0.005)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in error


def assert_same_rows(path, expected):
    for row, same in zip(read_jsonl(path), expected, strict=True):
        assert row["id"] == same["id"]
        assert row["quals"] == (None if same["quals"] is None else pytest.approx(same["quals"], abs=1e-4))


@pytest.mark.alone
@pytest.mark.parametrize("count", [40, 1])
def test_two_processes_give_the_rows_of_one_in_order(scored, tmp_path, tiny_causal_folder, count):
    expected = read_jsonl(scored[1])[:count]
    source, output = write_jsonl(tmp_path / "in.jsonl", rows(40)[:count]), tmp_path / "out.jsonl"
    arguments = [source, "--output", output, "--model", tiny_causal_folder, "--batch-size", 3, "--device", "cpu"]
    result = run(*arguments, command=TWO_PROCESSES)
    assert result.returncode == 0, result.stderr
    assert "on 2 processes" in result.stdout
    assert result.stdout.count(f"{count} summaries") == 1
    assert_same_rows(output, expected)


@pytest.mark.alone
def test_two_killed_processes_go_on_as_one(scored, tmp_path, tiny_causal_folder):
    source, expected, _ = scored
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial.jsonl"
    arguments = [source, "--output", output, "--model", tiny_causal_folder, "--batch-size", 1, "--device", "cpu"]
    process = subprocess.Popen(
        [*TWO_PROCESSES, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= 9):
        assert process.poll() is None
        time.sleep(0.005)
    kill_session(process)
    assert not output.exists()
    before = partial.read_bytes().count(b"\n") - 1
    resumed = run(*arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert 8 <= before < 40
    assert_same_rows(output, read_jsonl(expected))


@pytest.mark.alone
@pytest.mark.slow
def test_ten_thousand_rows_over_two_processes_survive_two_kills(tmp_path, tiny_causal_folder):
    data = rows(10_000)
    source, output = write_jsonl(tmp_path / "in.jsonl", data), tmp_path / "out.jsonl"
    partial, settings = tmp_path / "out.jsonl.partial.jsonl", {"--num-beams": 4, "--max-pairs": 2, "--batch-size": 32}
    arguments = [source, "--output", output, "--model", tiny_causal_folder, "--device", "cpu"]
    arguments += [text for setting in settings.items() for text in setting]
    kept = b""
    for option, lines in ([], 3_000), (["--resume"], 6_500):
        process = subprocess.Popen(
            [*TWO_PROCESSES, *map(str, [*arguments, *option])],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not (partial.exists() and partial.read_bytes().count(b"\n") >= lines):
            assert process.poll() is None
            time.sleep(0.1)
        kill_session(process)
        assert not output.exists()
        written = partial.read_bytes()
        assert written.startswith(kept)
        kept = written[: written.rindex(b"\n") + 1]
    num_kept = kept.count(b"\n") - 1
    assert 6_499 <= num_kept < 10_000
    resumed = run(*arguments, "--resume", command=TWO_PROCESSES)
    assert resumed.returncode == 0, resumed.stderr
    assert "10000 summaries" in resumed.stdout
    assert "on 2 processes" in resumed.stdout

    results = read_jsonl(output)
    assert [{name: row[name] for name in data[0]} for row in results] == data
    few = range(0, 10_000, 250)
    scorer = QualsScorer.from_pretrained(tiny_causal_folder, device="cpu", num_beams=4, max_pairs=2)
    alone = scorer.score([data[row]["document"] for row in few], [data[row]["summary"] for row in few])
    assert [math.nan if results[row]["quals"] is None else results[row]["quals"] for row in few] == pytest.approx(
        [result.score for result in alone], abs=1e-4, nan_ok=True
    )


def kill_session(leader):
    """SIGKILL for a process and all that it started, of which the launcher makes sessions of their own."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parent_of = dict(tuple(map(int, line.split())) for line in listed.splitlines())
    family = {leader.pid}
    while more := {pid for pid, parent in parent_of.items() if parent in family} - family:
        family |= more
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    leader.wait()


@pytest.mark.alone
def test_bad_input_stops_all_processes_with_one_message(tmp_path):
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"document": "a"}])
    good = write_jsonl(tmp_path / "good.jsonl", rows(1))
    for source, output, message in [
        (bad, tmp_path / "out.jsonl", "line 1: no column 'summary'"),
        (good, tmp_path / "no-such-folder" / "out.jsonl", "no-such-folder does not exist"),
    ]:
        result = run(source, "--output", output, "--device", "cpu", command=TWO_PROCESSES)
        assert result.returncode != 0
        assert result.stderr.count(message) == 1


def peak_memory(tmp_path, count, model):
    """MiB of a process that scores `count` rows."""
    source = write_jsonl(tmp_path / f"{count}.jsonl", rows(count))
    command = [*COMMAND, str(source), "--output", str(tmp_path / f"{count}-out.jsonl"), "--model", model]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss / 1024


def test_peak_memory_does_not_grow_with_the_number_of_rows(tmp_path, tiny_causal_folder):
    few, many = (peak_memory(tmp_path, count, tiny_causal_folder) for count in (50, 500))
    assert many - few < 0.05 * few


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_csv_and_parquet_give_the_scores_of_json_lines(scored, tmp_path, tiny_causal_folder, suffix):
    _, expected, _ = scored
    items = rows(4)
    items[0]["document"] += '\n"quoted", with a comma'
    source = tmp_path / f"in{suffix}"
    if suffix == ".csv":
        with source.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "document", "summary"])
            writer.writeheader()
            writer.writerows(items)
    else:
        pq.write_table(pa.Table.from_pylist(items), source)
    output = tmp_path / "out.parquet"
    assert invoke(source, "--output", output, "--model", tiny_causal_folder, "--pairs") == (0, ANY)
    table = pq.read_table(output).to_pylist()
    assert [row["document"] for row in table] == [row["document"] for row in items]
    assert [row["id"] for row in table] == [str(i) if suffix == ".csv" else i for i in range(4)]
    for row, same in zip(table[1:], read_jsonl(expected)[1:], strict=False):
        assert row["quals"] == (None if same["quals"] is None else pytest.approx(same["quals"], abs=1e-4))
        assert [pair["question"] for pair in row["quals_pairs"]] == [pair["question"] for pair in same["quals_pairs"]]


def test_one_document_and_its_summaries_are_printed_with_their_pairs_and_the_one_to_blame(tiny_causal_folder):
    document = "abcdefgh abcdefgh"
    summaries = ["xyz abcdefgh ijklmnop", "q"]
    both = ["--summary", summaries[0], "--summary", summaries[1]]
    first, second = output_of("--document", document, *both, "--model", tiny_causal_folder).split("\n\nSummary: ")
    assert "QUALS:" in first
    assert first.count("<- to blame") == 1
    assert second.startswith("q\n")


def test_terminal_gets_a_table_that_keeps_every_question_whole(tiny_causal_folder):
    arguments = ["--document", "abcdefgh abcdefgh", "--summary", "xyz abcdefgh", "--model", tiny_causal_folder]
    plain = output_of(*arguments)
    pair = next(line for line in plain.splitlines() if line.endswith("<- to blame"))
    question = pair.split()[3]
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end is closed
        while part := os.read(ours, 4096):
            shown += part
    assert process.wait() == 0
    assert "━" in shown.decode()
    assert question in shown.decode()
    assert shown.decode().count("<- to blame") == 1


def test_document_is_read_from_a_file(tmp_path, tiny_causal_folder):
    (tmp_path / "document.txt").write_text("abcdefgh")
    shown = output_of(
        "--document", f"@{tmp_path / 'document.txt'}", "--summary", "abcdefgh", "--model", tiny_causal_folder
    )
    assert "Summary: abcdefgh" in shown


def test_bad_input_is_refused_before_torch_is_imported(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"document": ""}')
    code = (
        "import sys; from hf_quals.cli import app\n"
        f"try: app(['score', r'{tmp_path / 'in.jsonl'}', '--output', r'{tmp_path / 'out.jsonl'}'])\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert result.stdout.strip() == "2 False"
    assert "line 1: column 'document' must hold text, got ''" in result.stderr
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Pass INPUT and --output, or --document and at least one --summary"),
        (["--document", "a"], "at least one --summary"),
        (["--document", "a", "--summary", " "], "--summary number 1 is empty"),
        (["in.jsonl"], "Pass --output"),
        (["in.jsonl", "--output", "out.txt"], "must end in .jsonl or .parquet"),
        (["in.jsonl", "--output", "out.jsonl", "--resume", "--overwrite"], "either --resume or --overwrite"),
        (["in.jsonl", "--document", "a"], "not both"),
        (["--document", "@no/such/file", "--summary", "a"], "No such file"),
        (["--document", __file__, "--summary", "a"], f"Pass --document @{__file__} to score what it holds"),
        (["--document", "a", "--summary", __file__], "names a file"),
        (["-", "-o", "out.jsonl"], "standard input is read only once"),
        (
            ["--document", "a", "--summary", "b", "--model", "user/nothing"],
            "user/nothing cannot be loaded: We couldn't",
        ),
        (
            ["--document", "a", "--summary", "b", "--device", "gpu"],
            "'gpu' is not available here. This machine has cpu",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    status, error = invoke(*arguments)
    assert (status, message in error) == (2, True), error


def test_impossible_model_or_device_is_a_message_and_no_traceback(tmp_path, tiny_causal_folder):
    for arguments, message in [
        (["--model", str(tmp_path / "nothing")], "nothing"),
        (["--model", tiny_causal_folder, "--device", "cuda:99"], "device='cuda:99' is not available"),
        (["--model", tiny_causal_folder, "--variant", "magic"], "variant must be one of"),
    ]:
        status, error = invoke("--document", "a", "--summary", "b", *arguments)
        assert (status, message in error, "Traceback" in error) == (2, True, False), error


def test_model_that_cannot_be_loaded_leaves_nothing_behind(scored, tmp_path, tiny_causal_folder):
    arguments = [scored[0], "--output", tmp_path / "out.jsonl"]
    assert invoke(*arguments, "--model", tmp_path / "mistyped") == (2, ANY)
    assert not list(tmp_path.iterdir())


def test_output_that_cannot_be_is_refused_before_a_model_is_loaded(scored, tmp_path):
    result = run(scored[0], "--output", tmp_path / "no-such-folder" / "out.jsonl", "--model", "no-such-model")
    assert result.returncode == 2
    assert "no-such-folder does not exist" in result.stderr
    assert "Traceback" not in result.stderr


def test_finished_output_is_not_overwritten_unasked(scored, tiny_causal_folder):
    source, output, _ = scored
    before = output.read_bytes()
    for option in ([], ["--resume"]):
        status, error = invoke(source, "--output", output, "--model", tiny_causal_folder, *option)
        assert (status, "exists" in error) == (2, True), error
    assert output.read_bytes() == before


def test_double_starts_and_kills_end_as_an_unbroken_run(scored, tmp_path, tiny_causal_folder):
    source, expected, _ = scored
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial.jsonl"
    arguments = [source, "--output", output, "--model", tiny_causal_folder, "--batch-size", 1, "--pairs"]
    for option, lines in ([], 9), (["--resume"], 17):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments), *option], env=ENVIRONMENT, stderr=subprocess.DEVNULL
        )
        while not (partial.exists() and partial.read_bytes().count(b"\n") >= lines):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        for second in (["--resume"], ["--overwrite"]):
            status, error = invoke(*arguments, *second)
            assert (status, "Another process is writing" in error) == (2, True), error
        process.kill()
        process.wait()
        assert not output.exists()
    assert invoke(*arguments, "--resume")[0] == 0
    assert output.read_bytes() == expected.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl"]


@pytest.fixture
def stopped(tmp_path, tiny_causal_folder):
    """The arguments of a run that was stopped by a row of its input that has changed, and its model's folder."""
    source, model = write_jsonl(tmp_path / "in.jsonl", rows(2)), tmp_path / "model"
    shutil.copytree(tiny_causal_folder, model)
    return [source, "--output", tmp_path / "out.jsonl"], model


def stop(arguments):
    """Runs the command up to the point where all is scored and the output is not written."""
    finish = PartialScores.finish
    PartialScores.finish = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    try:
        assert invoke(*arguments)[0] == 130
    finally:
        PartialScores.finish = finish


def test_only_the_same_weights_are_gone_on_with_wherever_they_lie(stopped, tmp_path):
    arguments, model = stopped
    stop([*arguments, "--model", model])
    moved = model.rename(tmp_path / "moved")
    before = {path: path.read_bytes() for path in moved.iterdir()}
    for name in ("model.safetensors", "qagen_config.json", "tokenizer.json", "config.json"):
        (moved / name).write_bytes(before[moved / name].replace(b"}", b"} ", 1))
        status, error = invoke(*arguments, "--model", moved, "--resume")
        assert (status, "was begun with something else (weights: " in error) == (2, True), error
        (moved / name).write_bytes(before[moved / name])
    (moved / "README.md").write_text("A card says nothing about scores.")
    assert invoke(*arguments, "--model", moved, "--resume") == (0, ANY)


def test_only_scores_of_the_same_type_and_version_are_gone_on_with(stopped, monkeypatch):
    arguments, model = stopped
    arguments = [*arguments, "--model", model, "--device", "cpu"]
    monkeypatch.setattr("hf_quals.qagen.loading.resolve_dtype", lambda dtype, device: torch.float32)
    stop(arguments)
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr("hf_quals.qagen.loading.resolve_dtype", lambda dtype, device: torch.bfloat16)
        status, error = invoke(*arguments, "--resume")
        assert (status, "(dtype: 'float32' then, 'bfloat16' now)" in error) == (2, True), error
    with monkeypatch.context() as later:
        later.setattr("hf_quals.comparing.score_file.__version__", "99")
        status, error = invoke(*arguments, "--resume")
        assert (status, f"(hf_quals: '{hf_quals.__version__}' then, '99' now)" in error) == (2, True), error
    assert invoke(*arguments, "--resume") == (0, ANY)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--device", "gpu"], "device='gpu' is not available here. This machine has cpu"),
        (["--dtype", "float99"], "dtype must be 'auto', 'float32', 'bfloat16' or 'float16', got 'float99'"),
    ],
)
def test_a_device_or_type_that_rows_cannot_be_scored_on_is_refused(stopped, option, message):
    arguments, model = stopped
    status, error = invoke(*arguments, "--model", model, *option)
    assert (status, f"Error: {message}" in error) == (2, True), error


def test_another_base_under_the_default_adapter_is_another_model(tmp_path, monkeypatch):
    for seed, name in enumerate(("first", "second")):
        tiny_model("llama", seed).save_pretrained(tmp_path / name)
    digests = []
    for name in ("first", "second", "first"):
        monkeypatch.setenv("HF_QUALS_BASE_MODEL", str(tmp_path / name))
        digests.append(weights_identity())
    assert digests[0] == digests[2] != digests[1]


def test_weights_in_memory_are_told_apart():
    first, second = tiny_model("llama", 0), tiny_model("llama", 1)
    assert identity_in_memory(first) == identity_in_memory(tiny_model("llama", 0)) != identity_in_memory(second)
    assert identity_in_memory(first, TINY_TEMPLATE) != identity_in_memory(first)


def test_a_longest_input_is_an_option(stopped):
    arguments, model = stopped
    assert invoke(*arguments, "--model", model, "--max-length", 20) == (0, ANY)
    assert [row["quals_document_truncated"] for row in read_jsonl(arguments[2])] == [True, True]


def test_a_blank_summary_is_counted(tmp_path, tiny_causal_folder):
    source = write_jsonl(tmp_path / "in.jsonl", [*rows(2), {"id": 2, "document": "a", "summary": " "}])
    assert invoke(source, "--output", tmp_path / "out.jsonl", "--model", tiny_causal_folder)[0] == 0
    assert read_jsonl(tmp_path / "out.jsonl")[2]["quals"] is None


def test_byte_order_mark_is_no_part_of_a_document(tmp_path):
    (tmp_path / "document.txt").write_text("abc", encoding="utf-8-sig")
    assert cli._text(f"@{tmp_path / 'document.txt'}") == "abc"


@pytest.mark.parametrize("file", [True, False])
def test_a_document_that_is_not_utf8_is_refused(tmp_path, tiny_causal_folder, file):
    (tmp_path / "document.txt").write_bytes(b"caf\xe9")
    document = f"@{tmp_path / 'document.txt'}" if file else os.fsdecode(b"caf\xe9")
    status, error = invoke("--document", document, "--summary", "b", "--model", tiny_causal_folder)
    assert (status, "--document" in error, "utf-8" in error.lower()) == (2, True, True)


def test_damaged_models_are_refused_in_one_line(tmp_path, tiny_causal_folder):
    for name, content in [
        ("model.safetensors", b"\x08" + bytes(7) + b"{notjson"),
        ("tokenizer.json", b'{"version": 1}'),
        ("config.json", b"{"),
    ]:
        folder = shutil.copytree(tiny_causal_folder, tmp_path / name)
        (folder / name).write_bytes(content)
        status, error = invoke("--document", "a", "--summary", "b", "--model", folder)
        assert (status, error.count("Error: ") >= 1, "Traceback" in error) == (2, True, False), error
    pickled = shutil.copytree(tiny_causal_folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(print))
    status, error = invoke("--document", "a", "--summary", "b", "--model", pickled)
    assert (status, error.count("Error: ") >= 1, "Traceback" in error) == (2, True, False), error


@pytest.mark.parametrize("device", ["meta", "abc", "cuda:99"])
def test_a_device_that_computes_nothing_is_refused(tiny_causal_folder, device):
    status, error = invoke("--document", "a", "--summary", "b", "--model", tiny_causal_folder, "--device", device)
    assert (status, device in error) == (2, True), error


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE must be a whole number, got 'abc'"),
        ({"WORLD_SIZE": "2", "RANK": "abc"}, "cannot be joined"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "cannot be joined"),
    ],
)
def test_processes_that_the_environment_names_wrongly_are_refused(tmp_path, environment, message):
    source = write_jsonl(tmp_path / "in.jsonl", rows(1))
    result = subprocess.run(
        [*COMMAND, str(source), "--output", str(tmp_path / "out.jsonl"), "--device", "cpu"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | environment,
        timeout=300,
    )
    assert (result.returncode, message in result.stderr, "Traceback" in result.stderr) == (2, True, False), (
        result.stderr
    )


def test_a_process_that_waits_for_a_missing_peer_is_ended_by_a_signal(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", rows(1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*COMMAND, str(source), "--output", str(tmp_path / "out.jsonl"), "--device", "cpu"],
        env=ENVIRONMENT
        | {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == -signal.SIGTERM


def test_document_comes_from_standard_input(tiny_causal_folder):
    arguments = ["--document", "-", "--summary", "abcdefgh", "--model", tiny_causal_folder, "--max_pairs", "1"]
    from_input = subprocess.run(
        [*COMMAND, *arguments], input="abcdefgh abc", capture_output=True, text=True, env=ENVIRONMENT
    )
    assert from_input.returncode == 0, from_input.stderr
    assert from_input.stdout == output_of(*arguments[:1], "abcdefgh abc", *arguments[2:])


def test_csv_gets_the_scores_of_json_lines(scored, tmp_path, tiny_causal_folder):
    source, expected, _ = scored
    arguments = [source, "-o", tmp_path / "out.csv", "--model", tiny_causal_folder, "--batch_size", 10]
    assert invoke(*arguments) == (0, ANY)
    with open(tmp_path / "out.csv", newline="") as file:
        rows_of_csv = list(csv.DictReader(file))
    for row, same in zip(rows_of_csv, read_jsonl(expected), strict=True):
        assert row["summary"] == same["summary"]
        assert (row["quals"] == "") == (same["quals"] is None)
        if row["quals"]:
            assert float(row["quals"]) == pytest.approx(same["quals"], abs=1e-4)
    assert "quals_pairs" not in rows_of_csv[0]


@pytest.mark.parametrize(
    "command", [["score"], ["evaluate"], ["rerank"], ["human-eval", "make"], ["human-eval", "report"]]
)
def test_every_output_has_a_short_name(command):
    printed = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).stdout
    assert re.search(r"--output +-o ", printed)


def test_help_shows_the_values_of_every_choice():
    printed = CliRunner().invoke(app, ["score", "--help"], env={"COLUMNS": "200"}).stdout
    assert "published|log_ratio|worst_pair|answers|divergence" in printed
    assert "auto|float32|bfloat16|float16" in printed
    printed = CliRunner().invoke(app, ["rerank", "--help"], env={"COLUMNS": "200"}).stdout
    assert "entity|factcc|qags|quals|rouge" in printed
