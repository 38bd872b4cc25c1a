from __future__ import annotations

import csv
import io
import json

import pytest

from vram_planner.cli.main import main

SIZE = "size --model 7b --users 60 --ctx 8192 --ttft 1s --tpot 50ms"


def run(text: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(text.split())
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


def test_the_table_has_ten_rows_of_at_most_a_hundred_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ("", " --quant stored --quant fp8 --model 32b", " --buy"):
        code, out, _ = run(SIZE + more, capsys)
        lines = out.splitlines()

        assert code == 0
        assert max(len(line) for line in lines) <= 100
        assert "more: --format json, csv or markdown" in out


def test_json_and_csv_hold_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(f"{SIZE} --format json", capsys)
    document = json.loads(out)
    _, table, _ = run(f"{SIZE} --format csv", capsys)
    rows = list(csv.DictReader(io.StringIO(table)))

    assert document["met"] is True
    assert len(rows) == len(document["options"])
    assert float(rows[0]["tpot_s_best"]) == document["options"][0]["tpot_s"]["best"]


def test_three_means_that_no_option_holds_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("size --model 7b --users 60 --ctx 8192 --ttft 1ms", capsys)

    assert code == 3
    assert "no option holds the limits" in out


@pytest.mark.parametrize(
    "wrong",
    [
        "size --users 3 --ctx 8192",
        "size --model 7b --ctx 8192",
        "size --model 7b --users 3",
        "size --model 7b --users three --ctx 8192",
        "size --model 7b --users 3 --ctx 8192 --ttft soon",
        "size --model 7b --users 3 --ctx 8192 --rate 2",
        "size --model 7b --users 3 --ctx 8192 --price 100",
        "size --model 7b --users 3 --ctx 8192 --prices nowhere.csv",
        "size --model 7b --users 3 --ctx 8192 --quant nonsense",
        "size --model 7b --users 3 --ctx 8192 --utilisation 0",
        "compare 7b --gpu nothing --ctx 8192",
        "sweep --model 7b",
    ],
)
def test_two_means_that_the_input_is_wrong(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(wrong, capsys)

    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert "hint: " in err


def test_compare_says_which_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("compare 7b 32b --gpu L4 --ctx 8192", capsys)

    assert code == 3
    assert "DeepSeek-R1-Distill-Qwen-32B bfloat16: does not fit" in out
