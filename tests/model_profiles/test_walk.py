"""The walk over transformers' own mapping, each module really built on the meta device (20 s in all)."""

from __future__ import annotations

import pytest

from vram_planner.validate.models import Walked, walk_models

NEEDED = "needs the extra [validate]: the modules are built by transformers itself"

REFUSED = {
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
    "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta", "xlm-roberta-xl",
    "xlnet", "xmod",
}  # fmt: skip


@pytest.fixture(scope="module")
def walked() -> dict[str, Walked]:
    pytest.importorskip("torch", reason=NEEDED)
    transformers = pytest.importorskip("transformers", reason=NEEDED)
    if transformers.__version__ != "5.23.0":
        pytest.skip(f"the lists below are of transformers 5.23.0, this is {transformers.__version__}")
    return {row.model_type: row for row in walk_models()}


def test_every_module_that_transformers_builds_has_as_many_parameters_as_we_say(
    walked: dict[str, Walked],
) -> None:
    differing = [row for row in walked.values() if row.status == "differs"]

    explained = [row.model_type for row in walked.values() if row.status == "explained"]

    assert differing == []
    assert explained == [
        "longcat_flash"
    ]  # 560 B published: matrices of its zero experts are in the module alone
    assert sum(row.status == "equal" for row in walked.values()) >= 154


def test_what_we_refuse_is_refused_by_name_and_reason(walked: dict[str, Walked]) -> None:
    refused = {name: row.detail for name, row in walked.items() if row.status == "refused"}

    assert set(refused) == REFUSED
    for name, reason in refused.items():
        assert f"the model family '{name}' is not planned: it " in reason


def test_what_transformers_cannot_build_is_named_with_its_own_error(walked: dict[str, Walked]) -> None:
    not_built = {name: row.detail for name, row in walked.items() if row.status == "not built"}

    assert len(not_built) == len(walked) - 155 - len(REFUSED)
    assert all(detail.split(":")[0].endswith(("Error", "Exception")) for detail in not_built.values())
    assert "is_decoder=True" in not_built["reformer"]
