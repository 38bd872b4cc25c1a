from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
        "size --model 7b --users 3 --ctx 8192 --headroom 0.2",
        "size --model 7b --users 3 --ctx 8192 --inter-node 400GB/s",
        "size --model 7b --users 3 --ctx 8192 --room mean",
        "size --model 7b --users 3 --ctx 8192 --engine transformers --gpu L40S --format kubernetes",
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


def test_the_table_over_nodes_names_the_network_within_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    words = "size --model 671b --users 20 --ctx 16384 --think-time 30s --gpu H100 --inter-node 100Gb/s/node"
    code, out, _ = run(words, capsys)

    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 100
    assert "tp8 pp2 @12.5" in out
    assert "@: over nodes, at so many Gb/s a GPU" in out
    assert "100 Gb/s a server, shared by 8 GPUs" in " ".join(out.split())


def test_nothing_that_holds_says_why_for_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("size --model 70b --users 60 --ctx 8192 --gpu l4 --max-gpus 8 --headroom 900%", capsys)

    assert code == 3
    assert "nearest, and why each is refused:" in out
    assert "× L4, tp" in out


def test_both_rooms_stand_in_the_table_and_the_expected_one_warns(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        "size --model 7b --users 60 --workload chat --gpu l4 --room expected --think-time 10s", capsys
    )

    assert code == 0
    assert "of 15,050 tokens have room" in out
    assert "of the 1,322 to expect" in out
    assert "preempted" in err


def test_a_manifest_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(f"{SIZE} --format kubernetes", capsys)

    assert code == 0
    assert "kind: Deployment" in out
    assert "kind: Service" in out


def test_compare_says_which_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("compare 7b 32b --gpu L4 --ctx 8192", capsys)

    assert code == 3
    assert "DeepSeek-R1-Distill-Qwen-32B bfloat16: does not fit" in out


@pytest.mark.parametrize(("users", "status"), [("40", 0), ("4000", 3), ("", 2)])
def test_the_script_of_the_how_to_fails_when_the_fleet_no_longer_fits(
    users: str, status: int, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "size-a-fleet.md").read_text(encoding="utf-8")
    script = page.split("```sh\n")[1].split("```")[0]
    shell = shutil.which("sh")
    if shell is None:
        pytest.skip("no shell")
    (tmp_path / "fleet-check").write_text(script)
    (tmp_path / "load.conf").write_text(f"next_quarter_users={users}\n")
    command = tmp_path / "vram-plan"
    command.write_text(f'#!{shell}\nexec "{sys.executable}" -m vram_planner "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        [shell, str(tmp_path / "fleet-check")],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}, check=False, capture_output=True,
    )  # fmt: skip

    assert done.returncode == status
    if status == 2:
        assert not (tmp_path / "fleet.json").exists()
    else:
        assert json.loads((tmp_path / "fleet.json").read_text())["met"] is (status == 0)
