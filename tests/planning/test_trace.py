"""Traces of lengths: the shapes that are published, and files that are none."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vram_planner.errors import PlannerError
from vram_planner.planning import trace
from vram_planner.planning.trace import read_trace

if TYPE_CHECKING:
    from pathlib import Path

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04,3180,8\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,x\n9,GPT-4,10,0,10,x\n"
MOONCAKE = '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n\n{"timestamp": 1, "input_length": 7, "output_length": 4, "hash_ids": []}\n'


@pytest.mark.parametrize(
    ("name", "text", "pairs"),
    [("azure.csv", AZURE, ((4808, 10), (3180, 8))), ("burst.csv", BURST, ((472, 18),)),
     ("mooncake.jsonl", MOONCAKE, ((6758, 500), (7, 4))),
     ("own.csv", "\ufeffprompt_tokens,output_tokens\n1,2\n", ((1, 2),))],
)  # fmt: skip
def test_published_shapes_are_read(
    tmp_path: Path, name: str, text: str, pairs: tuple[tuple[int, int], ...]
) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    found = read_trace(file)

    assert found.pairs == pairs
    assert found.basis == "measured"
    assert ("1 more without" in found.source) == (name == "burst.csv")
    assert found.longest == max(prompt + output for prompt, output in pairs)
    drawn = found.draw(Random(3), 10**6)
    assert drawn is not None
    assert drawn[:2] in pairs


@pytest.mark.parametrize(
    ("name", "text"),
    [("none.csv", ""), ("head.csv", "prompt_tokens,output_tokens\n"), ("other.csv", "a,b\n1,2\n"),
     ("minus.csv", "prompt_tokens,output_tokens\n-1,2\n"), ("word.csv", "prompt_tokens,output_tokens\nx,2\n"),
     ("large.csv", "prompt_tokens,output_tokens\n999999999,2\n"), ("inf.csv", "prompt_tokens,output_tokens\ninf,2\n"),
     ("short.csv", "prompt_tokens,output_tokens\n1\n"), ("list.jsonl", "[1, 2]\n"), ("bad.jsonl", "{"),
     ("deep.jsonl", "[" * 100_000), ("bool.jsonl", '{"prompt_tokens": true, "output_tokens": 2}'),
     ("null.jsonl", '{"prompt_tokens": null, "output_tokens": 2}'),
     ("nested.jsonl", '{"prompt_tokens": {"a": 1}, "output_tokens": 2}'),
     ("line.jsonl", '{"prompt_tokens": 1, "output_tokens": 2, "x": "' + "y" * (1 << 20) + '"}'),
     ("quote.csv", 'prompt_tokens,output_tokens\n"1,2\n')],
)  # fmt: skip
def test_what_is_no_trace_is_refused(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(PlannerError) as refused:
        read_trace(file)

    assert refused.value.hint


def test_bytes_directories_and_large_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00prompt")
    (tmp_path / "fine.csv").write_text("prompt_tokens,output_tokens\n1,2\n3,4\n", encoding="utf-8")
    for path in (tmp_path / "bytes.csv", tmp_path, tmp_path / "gone.csv"):
        with pytest.raises(PlannerError):
            read_trace(path)
    monkeypatch.setattr(trace, "_MOST_ROWS", 1)
    with pytest.raises(PlannerError, match="rows"):
        read_trace(tmp_path / "fine.csv")
    monkeypatch.setattr(trace, "_MOST_BYTES", 5)
    with pytest.raises(PlannerError, match="larger"):
        read_trace(tmp_path / "fine.csv")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.integers(1, 1 << 24), st.integers(1, 1 << 24)), min_size=1, max_size=20))
def test_csv_and_jsonl_say_the_same(tmp_path: Path, rows: list[tuple[int, int]]) -> None:
    table, lines = tmp_path / "t.csv", tmp_path / "t.jsonl"
    table.write_text("isl,osl\n" + "".join(f"{a},{b}\n" for a, b in rows), encoding="utf-8")
    lines.write_text("".join(json.dumps({"isl": a, "osl": b}) + "\n" for a, b in rows), encoding="utf-8")

    assert read_trace(table).pairs == read_trace(lines).pairs == tuple(rows)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".csv", ".jsonl"]))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes, suffix: str) -> None:
    file = tmp_path / f"any{suffix}"
    file.write_bytes(b"prompt_tokens,output_tokens\n" * (suffix == ".csv") + data)
    try:
        found = read_trace(file)
    except PlannerError:
        return
    assert found.pairs
