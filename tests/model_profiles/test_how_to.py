"""The example of the how-to is run as it stands there."""

import re
from pathlib import Path
from typing import Any

from vram_planner.model_profiles.config import Config

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-model-family.md"


def test_the_example_family_builds() -> None:
    example = re.search(r"```python\n(# src/.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    assert example
    exec(compile(example[1], str(PAGE), "exec"), names)  # noqa: S102  our own page
    sizes = {
        "model_type": "example",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    model = names["build"](Config(sizes))

    assert [layer.mixer.cache.window for layer in model.layers] == [4096, 4096, 4096, None]
