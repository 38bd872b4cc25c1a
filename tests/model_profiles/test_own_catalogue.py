"""A user's own rows beside those of the package, or in their place."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vram_planner.errors import CatalogueError, UnknownModelError
from vram_planner.model_profiles.own_catalogue import VARIABLE, use_catalogue
from vram_planner.model_profiles.resolve import model_names, resolve

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "torch_dtype": "bfloat16",
}
ROW: dict[str, Any] = {"model": "acme/tiny-1", "source": "our own training run 17", "config": CONFIG}


@pytest.fixture(autouse=True)
def no_catalogue_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "")
    yield
    use_catalogue(None)


def write(path: Path, *rows: object) -> str:
    text = (
        "\n".join(map(json.dumps, rows))
        if path.suffix == ".jsonl"
        else json.dumps(rows[0] if len(rows) == 1 else rows)
    )
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize("file", ["rows.json", "rows.jsonl"])
def test_a_file_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.setenv(VARIABLE, write(tmp_path / file, ROW, ROW | {"model": "acme/tiny-2"}))

    profile = resolve("ACME/tiny-2")
    assert profile.name == "acme/tiny-2"
    assert (profile.source, profile.provenance) == ("our own training run 17", "own catalogue")
    assert resolve("tiny-1").alias_of == "tiny-1 stands for acme/tiny-1"
    assert {"acme/tiny-1", "acme/tiny-2"} <= set(model_names())


def test_a_directory_of_files(tmp_path: Path) -> None:
    write(tmp_path / "a.json", ROW)
    write(tmp_path / "b.jsonl", ROW | {"model": "no-organisation"})
    (tmp_path / "notes.txt").write_text("not a row")

    use_catalogue(tmp_path)
    assert resolve("no-organisation").alias_of is None
    use_catalogue(None)
    with pytest.raises(UnknownModelError):
        resolve("no-organisation")


def test_a_row_takes_the_place_of_the_packages(tmp_path: Path) -> None:
    name = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    before = resolve("7b").architecture.parameters
    use_catalogue(write(tmp_path / "mine.json", ROW | {"model": name}))

    assert resolve(name).architecture.parameters != before
    assert resolve("7b").source == "our own training run 17"
    assert resolve("7b").alias_of == f"7b stands for {name}"
    assert len(model_names()) == len({each.lower() for each in model_names()})


def test_an_own_model_has_variants_too(tmp_path: Path) -> None:
    use_catalogue(write(tmp_path / "mine.json", ROW))

    assert resolve("acme/tiny-1-AWQ").alias_of == "acme/tiny-1-AWQ: acme/tiny-1 in awq"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    use_catalogue(write(file, ROW))
    before = resolve("acme/tiny-1").architecture.parameters
    write(file, ROW | {"config": CONFIG | {"num_hidden_layers": 33}})

    assert resolve("acme/tiny-1").architecture.parameters > before


@pytest.mark.parametrize(
    ("row", "key"),
    [
        (ROW | {"sauce": "x"}, "sauce"),
        ({key: ROW[key] for key in ("model", "config")}, "source"),
        (ROW | {"source": ""}, "source"),
        (ROW | {"model": "a/b/c"}, "model"),
        (ROW | {"parameters_meta_device": "many"}, "parameters_meta_device"),
        (ROW | {"provenance": "rumour"}, "provenance"),
        (ROW | {"config": []}, "config"),
        (17, "the row"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_is_wrong_names_file_and_key(tmp_path: Path, row: object, key: str) -> None:
    file = write(tmp_path / "mine.json", row)

    with pytest.raises(CatalogueError, match=key) as error:
        use_catalogue(file)
    assert str(error.value).startswith(f"{file}: {key}")
    assert "source" in error.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "no JSON"),
        ("a.json", b"[" * 100_000, "no JSON"),
        ("a.json", b"\xff\xfe", "no UTF-8"),
        ("a.jsonl", b"\n{}\n", "a.jsonl:2: "),
        ("a.json", json.dumps([ROW, ROW]).encode(), "already in"),
        ("a.txt", b"", "no .json or .jsonl files in"),
    ],
)
def test_a_file_that_is_no_catalogue(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(CatalogueError, match=message):
        use_catalogue(tmp_path)


def test_the_environment_is_checked_when_a_model_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))

    with pytest.raises(CatalogueError, match="nowhere") as error:
        resolve("7b")
    assert "--catalogue" in error.value.hint


def test_without_one_pydantic_stays_away() -> None:
    code = "import sys; from vram_planner.model_profiles.own_catalogue import use_catalogue; use_catalogue(None); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "pydantic" not in run.stdout.split()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"model":', "is no JSON"),
        ('{"model": "a/b", "config": {}}', "source: is missing"),
        (json.dumps(ROW | {"source": ""}), "source: is empty"),
        (json.dumps(ROW | {"colour": 1}), "colour: is no key of a row"),
        (json.dumps(ROW | {"model": "../../etc/passwd"}), "model: must be a name"),
        (json.dumps(ROW | {"provenance": "made up"}), "provenance: is none of the known labels"),
        (json.dumps(ROW | {"config": "text"}), "config: must be an object"),
        ("[1, 2]", "the row: must be an object"),
        ("null", "the row: must be an object"),
    ],
)
def test_the_command_refuses_a_hostile_catalogue(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "rows.json").write_text(content)
    told = command("--catalogue", str(tmp_path / "rows.json"))

    assert (told.returncode, told.stdout) == (2, "")
    assert "rows.json" in told.stderr
    assert said in told.stderr
    assert "\nhint: " in told.stderr
    assert "pydantic" not in told.stderr.lower()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "names no file"),
        ("nowhere", "no catalogue at nowhere"),
        (".", "no .json or .jsonl files in ."),
        ("/dev/null", "no catalogue at /dev/null"),
    ],
)
def test_the_command_refuses_a_path_that_is_no_catalogue(tmp_path: Path, path: str, said: str) -> None:
    told = command("--catalogue", path, folder=tmp_path)

    assert (told.returncode, told.stdout) == (2, "")
    assert said in told.stderr


def test_a_row_of_ones_own_goes_before_the_packages_of_that_name(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.json", ROW | {"model": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"})
    told = command("--catalogue", mine, "--format", "json")

    model = json.loads(told.stdout)["model"]
    assert told.returncode == 0
    assert model["source"] == ROW["source"]
    assert model["parameters"] == resolve(str(tiny(tmp_path))).architecture.parameters


def tiny(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder / "config.json"


def command(*options: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`vram-plan --model 7b …` in a process of its own."""
    code = "from vram_planner.cli.main import main; main()"
    asked = ("--model", "7b", "--ctx", "64", "--concurrency", "1", *options)
    return subprocess.run(
        [sys.executable, "-c", code, *asked], capture_output=True, text=True, check=False, cwd=folder
    )
