"""Names of tensors in published files, and which of our tensors they belong to."""

from __future__ import annotations

import pytest

from vram_planner.model_profiles.tensor_names import Meant, gguf_name, hf_name

LAYERS = 4


def names(meant: Meant) -> set[str]:
    return {name for group in meant.names for name in group}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "q_proj"),
        ("model.language_model.layers.3.self_attn.q_proj.weight", "q_proj"),
        ("model.layers.3.self_attn.q_proj.bias", "q_proj"),
        ("model.layers.3.self_attn.q_proj.weight_scale_inv", "q_proj"),
        ("model.layers.3.self_attn.q_proj.weight_scale", "q_proj"),
        ("model.layers.3.self_attn.q_proj.input_scale", "q_proj"),
        ("model.layers.3.self_attn.k_proj.k_scale", "k_proj"),
        ("model.layers.3.self_attn.q_proj.qweight", "q_proj"),
        ("model.layers.3.self_attn.q_proj.g_idx", "q_proj"),
        ("model.layers.3.self_attn.q_proj.weight_packed", "q_proj"),
        ("model.layers.3.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4", "q_proj"),
        ("model.layers.3.self_attn.q_proj.weight.absmax", "q_proj"),
        ("model.layers.3.self_attn.indexer.wk.weight", "indexer.wk"),
        ("model.layers.3.mlp.experts.17.down_proj.weight", "experts.down"),
        ("model.layers.3.block_sparse_moe.experts.7.w3.weight", "experts.up"),
        ("model.layers.3.mlp.experts.gate_up_proj", "experts.gate"),
        ("model.layers.3.mlp.experts.gate_up_proj_blocks", "experts.up"),
        ("model.layers.3.mlp.experts.down_proj_scales", "experts.down"),
        ("model.layers.3.mlp.experts.gate_up_proj_bias", "experts.gate"),
        ("transformer.blocks.3.ffn.experts.mlp.v1", "experts.up"),
        ("model.layers.3.mlp.shared_experts.up_proj.weight", "shared_experts.up_proj"),
        ("model.layers.3.mlp.shared_expert_gate.weight", "shared_gate"),
        ("model.layers.3.mlp.gate.weight", "router"),
        ("model.layers.3.mlp.gate.e_score_correction_bias", "router.correction"),
        ("transformer.h.3.attn.c_attn.weight", "qkv_proj"),
        ("transformer.h.3.attn.c_proj.weight", "o_proj"),
        ("transformer.h.3.mlp.c_proj.weight", "down_proj"),
        ("transformer.h.3.ln_attn.bias", "ln_attn"),
        ("gpt_neox.layers.3.attention.dense.weight", "o_proj"),
        ("model.layers.3.linear_attn.out_proj.weight", "out_proj"),
        ("model.decoder.layers.3.fc1.weight", "up_proj"),
    ],
)
def test_tensors_of_a_layer(name: str, ours: str) -> None:
    meant = hf_name(name, LAYERS)

    assert (meant.kind, meant.layer) == ("layer", 3)
    assert ours in names(meant)
    assert meant.bias is name.endswith(("bias", ".bias")) or "correction" in name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.4.eh_proj.weight", "draft"),
        ("mtp.fc.weight", "draft"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "ignored"),
        ("transformer.h.0.attn.bias", "ignored"),
        ("h.0.attn.masked_bias", "ignored"),
        ("transformer.h.0.attn.c_attn.bias", "layer"),
        ("model.visual.blocks.0.attn.qkv.weight", "tower"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "tower"),
        ("multi_modal_projector.linear_1.weight", "tower"),
        ("model.embed_tokens.weight", "outside"),
        ("lm_head.weight", "outside"),
        ("nonsense", "outside"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert hf_name(name, LAYERS).kind == kind


@pytest.mark.parametrize("ending", ["scales", "weight_scale", "g_idx", "weight.absmax", "weight_shape"])
def test_what_a_format_hangs_on_a_tensor_is_not_the_tensor(ending: str) -> None:
    assert not hf_name(f"model.layers.0.self_attn.q_proj.{ending}", LAYERS).main


@pytest.mark.parametrize(
    ("name", "kind", "ours"),
    [
        ("blk.3.attn_q.weight", "layer", "q_proj"),
        ("blk.3.ffn_gate.7.weight", "layer", "experts.gate"),
        ("blk.3.ffn_gate_up_exps.weight", "layer", "experts.up"),
        ("blk.3.exp_probs_b.bias", "layer", "router.correction"),
        ("blk.3.attn_k_b.weight", "layer", "kv_b_proj"),
        ("blk.4.nextn.eh_proj.weight", "draft", ""),
        ("token_embd.weight", "outside", "embed_tokens"),
        ("output.weight", "outside", "lm_head"),
        ("rope_freqs.weight", "extra", ""),
        ("blk.0.rope_freqs.weight", "extra", ""),
        ("v.blk.0.attn_q.weight", "tower", ""),
        ("mm.0.weight", "tower", ""),
        ("nonsense", "outside", ""),
    ],
)
def test_gguf(name: str, kind: str, ours: str) -> None:
    meant = gguf_name(name, LAYERS)

    assert meant.kind == kind
    assert not ours or ours in names(meant)
