"""Tiny configs of every family, and of every branch in its file.

Sizes differ wherever the architecture allows it, so that no two can be confused. Windows and trained lengths are
shorter than the texts of the tests.
"""

from dataclasses import dataclass
from typing import Any

import pytest

VOCAB, POSITIONS = 83, 40
IDS = {"bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Case:
    """One model: its class in transformers and its config."""

    name: str
    model: str
    config: dict[str, Any]
    model_type: str

    def __str__(self) -> str:
        return self.name


CASES: list[Case] = []


def case(name: str, model: str, model_type: str, *parts: dict[str, Any], **config: Any) -> None:
    """Add a case with a config that is merged from parts; later parts take precedence."""
    merged: dict[str, Any] = {}
    for part in (*parts, config):
        merged |= part
    CASES.append(Case(name, model, merged, model_type))


def rope(theta: float = 800.0, kind: str = "default", **settings: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **settings}


SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
LONG = {"max_position_embeddings": POSITIONS, "pad_token_id": 0, **IDS}
LLAMA = {**SIZES, **LONG, "num_key_value_heads": 2, "rms_norm_eps": 2e-3, "rope_parameters": rope()}
FOUR = {"num_hidden_layers": 4}
WIDE = {"head_dim": 20}
LAYERED = {**FOUR, "sliding_window": 5}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
NORMED = {"layer_norm_eps": 2e-3}
GPT = {
    "vocab_size": VOCAB,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": POSITIONS,
    "layer_norm_epsilon": 2e-3,
    **IDS,
}
BERT = {**SIZES, **LONG, **NORMED, "type_vocab_size": 3}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 36}
STRETCHED = {"factor": 3.0, "original_max_position_embeddings": 8}

# decoders
case("gpt2", "GPT2LMHeadModel", "gpt2", GPT)
case("gpt2 with a width of its own", "GPT2LMHeadModel", "gpt2", GPT, n_inner=72, activation_function="relu")
case("gpt_bigcode", "GPTBigCodeForCausalLM", "gpt_bigcode", GPT)
case("gpt_bigcode with all heads", "GPTBigCodeForCausalLM", "gpt_bigcode", GPT, multi_query=False)
NEO = {
    "hidden_size": 48,
    "num_heads": 4,
    "num_layers": 4,
    "window_size": 5,
    "vocab_size": VOCAB,
    "layer_norm_epsilon": 2e-3,
}
case(
    "gpt_neo",
    "GPTNeoForCausalLM",
    "gpt_neo",
    NEO,
    IDS,
    attention_types=[[["global", "local"], 2]],
    max_position_embeddings=40,
)
NEOX = {**SIZES, **LONG, **NORMED, "rope_parameters": rope(partial_rotary_factor=0.5)}
case("gpt_neox", "GPTNeoXForCausalLM", "gpt_neox", NEOX)
case("gpt_neox in sequence", "GPTNeoXForCausalLM", "gpt_neox", NEOX, use_parallel_residual=False, attention_bias=False)
case("gptj", "GPTJForCausalLM", "gptj", GPT, rotary_dim=6)
OPT = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 56}
case(
    "opt", "OPTForCausalLM", "opt", OPT, IDS, max_position_embeddings=POSITIONS, pad_token_id=1, word_embed_proj_dim=48
)
case("opt without biases", "OPTForCausalLM", "opt", OPT, IDS, enable_bias=False, layer_norm_elementwise_affine=False)
BLOOM = {"vocab_size": VOCAB, "hidden_size": 48, "n_layer": 3, "layer_norm_epsilon": 2e-3}
case("bloom", "BloomForCausalLM", "bloom", BLOOM, IDS, n_head=4)
case("bloom with six heads", "BloomForCausalLM", "bloom", BLOOM, IDS, n_head=6)
FALCON = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "layer_norm_epsilon": 2e-3,
    "max_position_embeddings": POSITIONS,
    **IDS,
    "rope_parameters": rope(),
}
case("falcon", "FalconForCausalLM", "falcon", FALCON, multi_query=True, parallel_attn=True)
case("falcon with all heads", "FalconForCausalLM", "falcon", FALCON, multi_query=False, parallel_attn=False, bias=True)
ALIBI = {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}
case("falcon with alibi", "FalconForCausalLM", "falcon", FALCON, ALIBI)
NEWER = {"new_decoder_architecture": True, "num_kv_heads": 2}
case("falcon of the newer design", "FalconForCausalLM", "falcon", FALCON, NEWER)
case(
    "falcon of the newer design with one norm", "FalconForCausalLM", "falcon", FALCON, NEWER, num_ln_in_parallel_attn=1
)
case("llama", "LlamaForCausalLM", "llama", LLAMA)
case(
    "llama with every flag",
    "LlamaForCausalLM",
    "llama",
    LLAMA,
    WIDE,
    attention_bias=True,
    mlp_bias=True,
    tie_word_embeddings=True,
)
case("llama linear", "LlamaForCausalLM", "llama", LLAMA, rope_parameters=rope(kind="linear", factor=3.0))
case(
    "llama dynamic",
    "LlamaForCausalLM",
    "llama",
    LLAMA,
    max_position_embeddings=16,
    rope_parameters=rope(kind="dynamic", factor=3.0),
)
BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, **STRETCHED}
case("llama llama3", "LlamaForCausalLM", "llama", LLAMA, rope_parameters=rope(kind="llama3", **BANDS))
case("llama yarn", "LlamaForCausalLM", "llama", LLAMA, rope_parameters=rope(kind="yarn", **STRETCHED))
case(
    "llama yarn with a magnitude",
    "LlamaForCausalLM",
    "llama",
    LLAMA,
    rope_parameters=rope(kind="yarn", attention_factor=1.3, **STRETCHED),
)
case("mistral", "MistralForCausalLM", "mistral", LLAMA, WIDE, sliding_window=5)
case("mistral without a window", "MistralForCausalLM", "mistral", LLAMA, sliding_window=None)
case("mixtral", "MixtralForCausalLM", "mixtral", LLAMA, num_local_experts=5, num_experts_per_tok=2, sliding_window=7)
case("qwen2", "Qwen2ForCausalLM", "qwen2", LLAMA, LAYERED, use_sliding_window=True, max_window_layers=1)
case("qwen2 without windows", "Qwen2ForCausalLM", "qwen2", LLAMA, LAYERED, tie_word_embeddings=True)
MLP_ONLY = {"num_experts": 5, "shared_expert_intermediate_size": 44, "mlp_only_layers": [0]}
case("qwen2_moe", "Qwen2MoeForCausalLM", "qwen2_moe", LLAMA, LAYERED, EXPERTS, MLP_ONLY)
case(
    "qwen2_moe normalised",
    "Qwen2MoeForCausalLM",
    "qwen2_moe",
    LLAMA,
    FOUR,
    EXPERTS,
    num_experts=5,
    norm_topk_prob=True,
    decoder_sparse_step=2,
    qkv_bias=False,
)
case("qwen3_moe", "Qwen3MoeForCausalLM", "qwen3_moe", LLAMA, WIDE, EXPERTS, num_experts=5, norm_topk_prob=True)
case("qwen3", "Qwen3ForCausalLM", "qwen3", LLAMA, WIDE, attention_bias=True)
case("gemma", "GemmaForCausalLM", "gemma", LLAMA, WIDE)
CAPPED = {**LAYERED, **WIDE, "query_pre_attn_scalar": 30, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0}
case("gemma2", "Gemma2ForCausalLM", "gemma2", LLAMA, CAPPED)
case(
    "gemma2 all global, not capped",
    "Gemma2ForCausalLM",
    "gemma2",
    LLAMA,
    WIDE,
    layer_types=["full_attention"] * 3,
    attn_logit_softcapping=None,
    final_logit_softcapping=None,
)
LOCAL = {"sliding_attention": rope(90.0), "full_attention": rope(900.0, "linear", factor=3.0)}
case(
    "gemma3",
    "Gemma3ForCausalLM",
    "gemma3_text",
    LLAMA,
    LAYERED,
    WIDE,
    ALTERNATING,
    rope_parameters=LOCAL,
    query_pre_attn_scalar=30,
)
case("phi", "PhiForCausalLM", "phi", SIZES, LONG, NORMED, rope_parameters=rope(partial_rotary_factor=0.5))
case("phi with normed queries", "PhiForCausalLM", "phi", SIZES, LONG, NORMED, qk_layernorm=True, num_key_value_heads=2)
LISTS = {"short_factor": [1.0, 1.2, 1.4, 1.6], "long_factor": [1.5, 2.0, 3.0, 5.0]}
LONGROPE = {
    "rope_parameters": rope(kind="longrope", partial_rotary_factor=2 / 3, original_max_position_embeddings=8, **LISTS)
}
case("phi3", "Phi3ForCausalLM", "phi3", LLAMA, sliding_window=5, original_max_position_embeddings=POSITIONS)
case(
    "phi3 longrope",
    "Phi3ForCausalLM",
    "phi3",
    LLAMA,
    LONGROPE,
    original_max_position_embeddings=8,
    tie_word_embeddings=True,
)
case("olmo", "OlmoForCausalLM", "olmo", LLAMA, clip_qkv=0.9)
case("olmo2", "Olmo2ForCausalLM", "olmo2", LLAMA)
case("olmoe", "OlmoeForCausalLM", "olmoe", LLAMA, num_experts=5, num_experts_per_tok=2, clip_qkv=1.1)
STABLE = {**SIZES, **LONG, **NORMED, "num_key_value_heads": 2, "rope_parameters": rope(partial_rotary_factor=0.5)}
case("stablelm", "StableLmForCausalLM", "stablelm", STABLE, use_qkv_bias=True)
case("stablelm in parallel", "StableLmForCausalLM", "stablelm", STABLE, use_parallel_residual=True, qk_layernorm=True)
case("cohere", "CohereForCausalLM", "cohere", STABLE, rope_parameters=rope(), logit_scale=0.3, use_qk_norm=True)
case(
    "cohere without normed queries", "CohereForCausalLM", "cohere", STABLE, rope_parameters=rope(), attention_bias=True
)
MULTIPLIERS = {
    "embedding_multiplier": 2.5,
    "residual_multiplier": 0.45,
    "attention_multiplier": 0.2,
    "logits_scaling": 1.7,
}
case("granite", "GraniteForCausalLM", "granite", LLAMA, MULTIPLIERS, mlp_bias=True)
case(
    "granitemoe", "GraniteMoeForCausalLM", "granitemoe", LLAMA, MULTIPLIERS, num_local_experts=5, num_experts_per_tok=2
)
case("glm4", "Glm4ForCausalLM", "glm4", LLAMA, WIDE, rope_parameters=rope(partial_rotary_factor=0.5))
case("smollm3", "SmolLM3ForCausalLM", "smollm3", LLAMA, FOUR, no_rope_layers=[1, 0, 1, 1])
case(
    "smollm3 with windows",
    "SmolLM3ForCausalLM",
    "smollm3",
    LLAMA,
    LAYERED,
    use_sliding_window=True,
    no_rope_layer_interval=2,
)
case(
    "nemotron",
    "NemotronForCausalLM",
    "nemotron",
    LLAMA,
    WIDE,
    norm_eps=2e-3,
    rope_parameters=rope(partial_rotary_factor=0.5),
)
case(
    "persimmon",
    "PersimmonForCausalLM",
    "persimmon",
    SIZES,
    LONG,
    NORMED,
    rope_parameters=rope(partial_rotary_factor=0.5),
)
case("persimmon without normed queries", "PersimmonForCausalLM", "persimmon", SIZES, LONG, NORMED, qk_layernorm=False)
XGLM = {
    "vocab_size": VOCAB,
    "d_model": 48,
    "num_layers": 3,
    "attention_heads": 4,
    "ffn_dim": 56,
    "max_position_embeddings": POSITIONS,
}
case("xglm", "XGLMForCausalLM", "xglm", XGLM, IDS, pad_token_id=0, scale_embedding=True)
case("ernie4_5", "Ernie4_5ForCausalLM", "ernie4_5", LLAMA, WIDE, use_bias=True)
case("arcee", "ArceeForCausalLM", "arcee", LLAMA, WIDE)
case(
    "seed_oss with a bias outside alone",
    "SeedOssForCausalLM",
    "seed_oss",
    LLAMA,
    attention_bias=False,
    attention_out_bias=True,
)
case("seed_oss", "SeedOssForCausalLM", "seed_oss", LLAMA, WIDE, attention_out_bias=True)
STARCODER = {"norm_epsilon": 2e-3, "sliding_window": 5, "mlp_type": "default"}
case("starcoder2", "Starcoder2ForCausalLM", "starcoder2", LLAMA, STARCODER)
case("starcoder2 without biases", "Starcoder2ForCausalLM", "starcoder2", LLAMA, norm_epsilon=2e-3, use_bias=False)
case("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", LLAMA, WIDE)
YARN = {"rope_parameters": rope(kind="yarn", mscale=0.8, mscale_all_dim=1.2, **STRETCHED)}
MLA = {"kv_lora_rank": 18, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10, "num_key_value_heads": 4}
GROUPED = {
    "n_routed_experts": 6,
    "n_group": 3,
    "topk_group": 2,
    **EXPERTS,
    "routed_scaling_factor": 1.4,
    "first_k_dense_replace": 1,
}
DEEPSEEK = {**LLAMA, **MLA, **GROUPED}
case(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    "deepseek_v2",
    DEEPSEEK,
    q_lora_rank=None,
    n_shared_experts=2,
    topk_method="group_limited_greedy",
)
case(
    "deepseek_v2 yarn",
    "DeepseekV2ForCausalLM",
    "deepseek_v2",
    DEEPSEEK,
    YARN,
    q_lora_rank=22,
    n_shared_experts=1,
    attention_bias=True,
)
case("deepseek_v3", "DeepseekV3ForCausalLM", "deepseek_v3", DEEPSEEK, YARN, q_lora_rank=22, n_shared_experts=1)
case(
    "deepseek_v3 in halves",
    "DeepseekV3ForCausalLM",
    "deepseek_v3",
    DEEPSEEK,
    q_lora_rank=None,
    rope_interleave=False,
    norm_topk_prob=False,
)
SHARP = {"rope_parameters": rope(kind="yarn", truncate=False, **STRETCHED), "swiglu_limit": 1.2, "swiglu_alpha": 1.5}
case("gpt_oss", "GptOssForCausalLM", "gpt_oss", LLAMA, LAYERED, WIDE, SHARP, num_local_experts=5, num_experts_per_tok=2)
EXAONE = {**LAYERED, **EXPERTS, "num_experts": 5, "num_shared_experts": 2, "first_k_dense_replace": 1}
case("exaone_moe", "ExaoneMoeForCausalLM", "exaone_moe", LLAMA, EXAONE, sliding_window_pattern=2)
DOTS = {**EXPERTS, "n_routed_experts": 5, "n_shared_experts": 2, "first_k_dense_replace": 1, "sliding_window": 5}
case("dots1", "Dots1ForCausalLM", "dots1", LLAMA, FOUR, DOTS, max_window_layers=2, norm_topk_prob=True)
case("bitnet", "BitNetForCausalLM", "bitnet", LLAMA)
case("bitnet with another activation", "BitNetForCausalLM", "bitnet", LLAMA, hidden_act="silu", attention_bias=True)
AFMOE = {**LAYERED, **EXPERTS, "num_experts": 5, "num_shared_experts": 2, "num_dense_layers": 1, "route_scale": 1.4}
case("afmoe", "AfmoeForCausalLM", "afmoe", LLAMA, AFMOE, WIDE, mup_enabled=True, global_attn_every_n_layers=2)
case("afmoe not scaled", "AfmoeForCausalLM", "afmoe", LLAMA, AFMOE, WIDE, num_dense_layers=2, attention_bias=True)
MIXED = {"num_local_experts": 5, "num_experts_per_tok": 2, "router_jitter_noise": 0.2}
case("phimoe", "PhimoeForCausalLM", "phimoe", LLAMA, MIXED, attention_bias=True, lm_head_bias=True)
case("phimoe with windows", "PhimoeForCausalLM", "phimoe", LLAMA, MIXED, sliding_window=5)
case("nanochat", "NanoChatForCausalLM", "nanochat", LLAMA, final_logit_softcapping=2.0)
case("nanochat not capped", "NanoChatForCausalLM", "nanochat", LLAMA, final_logit_softcapping=None, attention_bias=True)
KINDS = {"full_attention": rope(900.0, partial_rotary_factor=0.5), "sliding_attention": rope(90.0)}
SHARED = {"num_experts": 5, **EXPERTS, "shared_expert_intermediate_size": 44}
case("kolibri1", "Kolibri1ForCausalLM", "kolibri1", LLAMA, LAYERED, SHARED, WIDE, ALTERNATING, norm_topk_prob=True)
case("kolibri1 not normalised", "Kolibri1ForCausalLM", "kolibri1", LLAMA, LAYERED, SHARED, WIDE)
LAGUNA = {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "moe_routed_scaling_factor": 1.7}
LAGUNA |= {"num_attention_heads_per_layer": [4, 6, 4, 2], "moe_router_logit_softcapping": 1.5, **WIDE}
case("laguna", "LagunaForCausalLM", "laguna", LLAMA, LAYERED, SHARED, LAGUNA, ALTERNATING, rope_parameters=KINDS)
case(
    "laguna by channel", "LagunaForCausalLM", "laguna", LLAMA, SHARED, WIDE, gating="per-element", rope_parameters=KINDS
)
VALUES = {"head_dim": 24, "v_head_dim": 10, "attention_value_scale": 0.6, "attention_bias": True}
VALUES |= {"n_routed_experts": 6, "n_group": 3, "topk_group": 2, **EXPERTS, "routed_scaling_factor": 1.4}
PARTS = {
    kind: rope(theta, partial_rotary_factor=0.34)
    for kind, theta in (("full_attention", 900.0), ("sliding_attention", 90.0))
}
case(
    "mimo_v2_flash",
    "MiMoV2FlashForCausalLM",
    "mimo_v2_flash",
    LLAMA,
    LAYERED,
    VALUES,
    ALTERNATING,
    rope_parameters=PARTS,
)
case(
    "mimo_v2_flash not scaled",
    "MiMoV2FlashForCausalLM",
    "mimo_v2_flash",
    LLAMA,
    LAYERED,
    VALUES,
    rope_parameters=PARTS,
    attention_value_scale=None,
    attention_bias=False,
    norm_topk_prob=False,
)
MAMBA = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 3, "layer_norm_epsilon": 2e-3, **IDS}
HEADED = {"num_heads": 8, "head_dim": 12, "state_size": 10, "n_groups": 2}
case("mamba2", "Mamba2ForCausalLM", "mamba2", MAMBA, HEADED)
FLAGGED = {"use_bias": True, "use_conv_bias": False, "conv_kernel": 3, "n_groups": 1, "tie_word_embeddings": True}
case("mamba2 with limits", "Mamba2ForCausalLM", "mamba2", MAMBA, HEADED, FLAGGED, time_step_limit=[0.02, 0.3])
STATED = {"state_size": 10, "time_step_rank": 5}
case("mamba", "MambaForCausalLM", "mamba", MAMBA, STATED)
case("mamba with biases", "MambaForCausalLM", "mamba", MAMBA, FLAGGED, expand=3, tie_word_embeddings=False)
case("falcon_mamba", "FalconMambaForCausalLM", "falcon_mamba", MAMBA, STATED, mixer_rms_eps=2e-2)
JAMBA = {**FOUR, "mamba_d_state": 10, "mamba_dt_rank": 5, "attn_layer_period": 4, "attn_layer_offset": 2}
case("jamba", "JambaForCausalLM", "jamba", LLAMA, JAMBA, num_experts=5, expert_layer_offset=1)
case(
    "jamba without experts",
    "JambaForCausalLM",
    "jamba",
    LLAMA,
    num_experts=1,
    attn_layer_offset=1,
    mamba_proj_bias=True,
    tie_word_embeddings=True,
)
GRIFFIN = {**LLAMA, **FOUR, "num_key_value_heads": 1, "attention_window_size": 5, "logits_soft_cap": 3.0}
HALF = {"rope_parameters": rope(partial_rotary_factor=0.5)}
case("recurrent_gemma", "RecurrentGemmaForCausalLM", "recurrent_gemma", GRIFFIN, HALF, lru_width=40)
case(
    "recurrent_gemma in another order",
    "RecurrentGemmaForCausalLM",
    "recurrent_gemma",
    GRIFFIN,
    HALF,
    attention_bias=True,
    block_types=["attention", "recurrent"],
    hidden_activation="gelu",
)
FALCON_H1 = {"mamba_d_ssm": 60, "mamba_n_heads": 6, "mamba_d_head": 10, "mamba_d_state": 7}
SCALED = {
    "embedding_multiplier": 2.5,
    "lm_head_multiplier": 0.4,
    "key_multiplier": 0.7,
    "attention_in_multiplier": 1.2,
    "attention_out_multiplier": 0.8,
    "ssm_in_multiplier": 1.3,
    "ssm_out_multiplier": 0.6,
    "ssm_multipliers": [0.9, 1.1, 0.8, 1.2, 0.7],
    "mlp_multipliers": [0.9, 0.7],
}
case("falcon_h1", "FalconH1ForCausalLM", "falcon_h1", LLAMA, FALCON_H1, SCALED)
case(
    "falcon_h1 with a norm",
    "FalconH1ForCausalLM",
    "falcon_h1",
    LLAMA,
    FALCON_H1,
    mamba_n_groups=2,
    mamba_rms_norm=True,
    projectors_bias=True,
    mamba_conv_bias=False,
)
CONVOLUTIONS = {"norm_eps": 2e-3, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.1}
CONVOLVED = {"layer_types": ["conv", "full_attention", "conv"]}
LFM = {key: value for key, value in LLAMA.items() if key != "rms_norm_eps"}
case("lfm2", "Lfm2ForCausalLM", "lfm2", LFM, CONVOLUTIONS, CONVOLVED)
case(
    "lfm2 with biases",
    "Lfm2ForCausalLM",
    "lfm2",
    LFM,
    CONVOLUTIONS,
    full_attn_idxs=[0, 2],
    conv_bias=True,
    conv_L_cache=4,
    block_auto_adjust_ff_dim=False,
    tie_word_embeddings=False,
)
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 4}
HYBRID = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
case("olmo_hybrid", "OlmoHybridForCausalLM", "olmo_hybrid", LLAMA, DELTA, HYBRID)
case(
    "olmo_hybrid without positions",
    "OlmoHybridForCausalLM",
    "olmo_hybrid",
    LLAMA,
    rope_parameters={"rope_type": "default", "rope_theta": None},
    linear_num_key_heads=3,
    linear_num_value_heads=3,
    linear_value_head_dim=12,
    linear_conv_kernel_dim=3,
    linear_allow_neg_eigval=False,
    attention_bias=True,
)
NEXT = {"shared_expert_intermediate_size": 44, "mlp_only_layers": [1], "num_experts": 5, "linear_value_head_dim": 6}
case("qwen3_next", "Qwen3NextForCausalLM", "qwen3_next", LLAMA, DELTA, HYBRID, EXPERTS, NEXT, head_dim=24)
QWEN4 = {
    "num_experts": 5,
    "shared_expert_intermediate_size": 44,
    "hc_count": 3,
    "hc_lowrank": 7,
    "indexer_n_heads": 3,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 14,
    "indexer_budget": 6,
    "indexer_compress_ratio": 3,
    "rope_parameters": {**rope(), "partial_rotary_factor": 0.5},
}
case("qwen4_exp_text", "Qwen4ExpForCausalLM", "qwen4_exp_text", LLAMA, DELTA, HYBRID, EXPERTS, QWEN4, head_dim=24)
case(
    "qwen4_exp_text with n-grams",
    "Qwen4ExpForCausalLM",
    "qwen4_exp_text",
    LLAMA,
    DELTA,
    FOUR,
    EXPERTS,
    QWEN4,
    head_dim=24,
    ple_layer_ids=[1, 3],
    ple_embed_dim=24,
    ple_conv_kernel_size=3,
    heads_per_ngram=3,
    ngram_vocab_size_base=40,
    make_ngram_vocab_size_divisible_by=8,
    split_ngram_parts=5,
    seed=11,
    output_gate_type="sigmoid",
    norm_topk_prob=False,
    tie_word_embeddings=True,
)
case(
    "minimax",
    "MiniMaxForCausalLM",
    "minimax",
    LLAMA,
    WIDE,
    HYBRID,
    num_local_experts=5,
    block_size=8,
    full_attn_alpha_factor=1.3,
    full_attn_beta_factor=0.8,
    linear_attn_alpha_factor=1.2,
    linear_attn_beta_factor=0.7,
    mlp_alpha_factor=1.1,
    mlp_beta_factor=0.9,
)
KIMI = {key: value for key, value in LLAMA.items() if key not in ("rope_parameters", "max_position_embeddings")}
KIMI |= {
    **MLA,
    "model_max_length": POSITIONS,
    "moe_intermediate_size": 36,
    "num_experts": 6,
    "num_experts_per_token": 2,
}
KIMI |= {"linear_head_dim": 12, "linear_num_heads": 3}
case(
    "kimi_linear",
    "KimiLinearForCausalLM",
    "kimi_linear",
    KIMI,
    HYBRID,
    mlp_layer_types=["dense", "sparse", "sparse"],
    num_expert_group=3,
    topk_group=2,
    num_shared_experts=2,
)
case(
    "kimi_linear with narrow queries",
    "KimiLinearForCausalLM",
    "kimi_linear",
    KIMI,
    num_hidden_layers=2,
    layer_types=["linear_attention", "full_attention"],
    q_lora_rank=22,
    linear_conv_kernel_dim=3,
    moe_renormalize=False,
)

case("apertus", "ApertusForCausalLM", "apertus", LLAMA, hidden_act="xielu")
case("diffllama", "DiffLlamaForCausalLM", "diffllama", LLAMA, WIDE, num_attention_heads=8, num_key_value_heads=4)
case("diffllama with biases", "DiffLlamaForCausalLM", "diffllama", LLAMA, attention_bias=True)
case("doge", "DogeForCausalLM", "doge", LLAMA, keep_window_size=7)
case("doge with biases", "DogeForCausalLM", "doge", LLAMA, attention_bias=True, mlp_bias=True)
JETMOE = {key: value for key, value in LLAMA.items() if key != "num_attention_heads"}
JETMOE |= {"kv_channels": 12, "num_key_value_heads": 3, "num_local_experts": 5, "num_experts_per_tok": 2}
case("jetmoe", "JetMoeForCausalLM", "jetmoe", JETMOE)
case("axk1", "AXK1ForCausalLM", "axk1", DEEPSEEK, q_lora_rank=22, mlp_layer_types=["dense", "sparse", "sparse"])
INDEXED = {"index_n_heads": 3, "index_head_dim": 12, "index_topk": 6, "q_lora_rank": 22, "n_shared_experts": 1}
case("deepseek_v32", "DeepseekV32ForCausalLM", "deepseek_v32", DEEPSEEK, YARN, INDEXED, first_k_dense_replace=1)
case("deepseek_v32 not stretched", "DeepseekV32ForCausalLM", "deepseek_v32", DEEPSEEK, INDEXED, index_topk=4)
SHARING = {**INDEXED, "indexer_types": ["full", "shared", "full", "shared"], "n_group": 1, "topk_group": 1}
case("glm_moe_dsa", "GlmMoeDsaForCausalLM", "glm_moe_dsa", DEEPSEEK, SHARING, FOUR, first_k_dense_replace=1)
case("glm_moe_dsa by frequency", "GlmMoeDsaForCausalLM", "glm_moe_dsa", DEEPSEEK, INDEXED, FOUR, index_topk_freq=3)
case(
    "hy_v4",
    "HYV4ForCausalLM",
    "hy_v4",
    DEEPSEEK,
    SHARING,
    FOUR,
    mlp_layer_types=["dense", "sparse", "sparse", "dense"],
    hc_mult=3,
    hc_magnitude=1.5,
    hc_eps=2e-2,
    swiglu_limit=0.6,
)
NOTE = {
    "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "head_dim": 20,
    "n_group": 1,
    "topk_group": 1,
    "sliding_window": 5,
    "shared_experts_intermediate_size": 44,
    "rope_parameters": {"indexed_attention": rope(900.0), "sliding_attention": rope(90.0)},
}
SMALLER = {
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 20,
    "kv_lora_rank": 18,
    "head_dim": 22,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 10,
    "v_head_dim": 14,
}
case(
    "dots3_note_text",
    "Dots3NoteForCausalLM",
    "dots3_note_text",
    DEEPSEEK,
    INDEXED,
    NOTE,
    per_layer_config={1: SMALLER},
)
case(
    "dots3_note_text in earlier spelling",
    "Dots3NoteForCausalLM",
    "dots3_note_text",
    DEEPSEEK,
    INDEXED,
    NOTE,
    **{f"swa_{key}": value for key, value in SMALLER.items()},
)
GEMMA4 = {
    **LLAMA,
    **LAYERED,
    **WIDE,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 4.0,
    "rope_parameters": {
        "sliding_attention": rope(90.0),
        "full_attention": rope(700.0, "proportional", partial_rotary_factor=0.5),
    },
}
case("gemma4_text", "Gemma4ForCausalLM", "gemma4_text", GEMMA4, global_head_dim=28, attention_bias=True)
EQUAL = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
BESIDE = {"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 36}
case("gemma4_text with keys as values", "Gemma4ForCausalLM", "gemma4_text", GEMMA4, EQUAL, global_head_dim=28)
case("gemma4_text with experts", "Gemma4ForCausalLM", "gemma4_text", GEMMA4, EQUAL, BESIDE, global_head_dim=28)
SHARING = {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 12, "vocab_size_per_layer_input": VOCAB}
case("gemma4_text with shared keys", "Gemma4ForCausalLM", "gemma4_text", GEMMA4, SHARING, use_double_wide_mlp=True)
case(
    "gemma4_text with shared keys as values",
    "Gemma4ForCausalLM",
    "gemma4_text",
    GEMMA4,
    EQUAL,
    SHARING,
    attention_bias=True,
)
GEMMA3N = {
    **{key: value for key, value in GEMMA4.items() if key != "rope_parameters"},
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "rope_parameters": {"sliding_attention": rope(90.0), "full_attention": rope(700.0)},
    "hidden_size_per_layer_input": 12,
    "vocab_size_per_layer_input": VOCAB - 3,
    "intermediate_size": [56, 60, 56, 56],
    "activation_sparsity_pattern": [0.9, 0.7, 0.0, 0.0],
    "altup_num_inputs": 3,
    "laurel_rank": 10,
    "num_kv_shared_layers": 2,
}
case("gemma3n", "Gemma3nForCausalLM", "gemma3n_text", GEMMA3N)
PLAINER = {"altup_correct_scale": False, "num_kv_shared_layers": 0, "attention_bias": True}
case("gemma3n without shared keys", "Gemma3nForCausalLM", "gemma3n_text", GEMMA3N, PLAINER, altup_num_inputs=2)
LONGCAT = {
    **LLAMA,
    **MLA,
    "num_key_value_heads": 4,
    "head_dim": MLA["qk_rope_head_dim"],
    "n_routed_experts": 6,
    "q_lora_rank": 22,
    "num_layers": 2,
    "ffn_hidden_size": 56,
    "expert_ffn_hidden_size": 36,
}
LONGCAT = {key: value for key, value in LONGCAT.items() if key not in {"num_hidden_layers", "intermediate_size"}}
case("longcat_flash", "LongcatFlashForCausalLM", "longcat_flash", LONGCAT, moe_topk=3, zero_expert_num=2)
CHUNKED = {"attention_chunk_size": 5, "floor_scale": 4, "attn_scale": 0.4, "num_local_experts": 4}
LLAMA4 = {**LLAMA, **FOUR, "intermediate_size": 36, "intermediate_size_mlp": 56, **CHUNKED}
MIXED = {"no_rope_layers": [1, 0, 1, 0], "moe_layers": [1, 2]}
case("llama4_text", "Llama4ForCausalLM", "llama4_text", LLAMA4, WIDE, MIXED)
PLAIN = {"use_qk_norm": False, "attn_temperature_tuning": False, "interleave_moe_layer_step": 2}
case("llama4_text without norms", "Llama4ForCausalLM", "llama4_text", LLAMA4, PLAIN, num_experts_per_tok=2)
RWKV = {"vocab_size": VOCAB, "context_length": POSITIONS, "hidden_size": 48, "num_hidden_layers": 3, "rescale_every": 0}
case("rwkv", "RwkvForCausalLM", "rwkv", RWKV, attention_hidden_size=48, intermediate_size=56, layer_norm_epsilon=2e-3)
XLSTM = {
    **SIZES,
    "hidden_size": 128,
    "num_heads": 4,
    "ffn_round_up_to_multiple_of": 8,
    "norm_eps": 2e-3,
    "chunk_size": 8,
}
XLSTM = {key: value for key, value in XLSTM.items() if key not in {"intermediate_size", "num_attention_heads"}}
XLSTM |= {"mode": "inference", "autocast_kernel_dtype": "float32", "gate_soft_cap": 4.0, "output_logit_soft_cap": 3.0}
case("xlstm", "xLSTMForCausalLM", "xlstm", XLSTM, return_last_states=False, weight_mode="single", **IDS)
NEMOTRON = {
    **{key: value for key, value in SIZES.items() if key != "num_hidden_layers"},
    **LONG,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "layers_block_type": ["mamba", "mlp", "attention", "moe"],
    "layer_norm_epsilon": 2e-3,
    "use_mamba_kernels": False,
    "ssm_state_size": 6,
    "mamba_num_heads": 6,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "n_routed_experts": 6,
    "moe_intermediate_size": 36,
    "moe_shared_expert_intermediate_size": 28,
}
case("nemotron_h", "NemotronHForCausalLM", "nemotron_h", NEMOTRON, moe_latent_size=24, n_group=2, topk_group=1)
case("nemotron_h with biases", "NemotronHForCausalLM", "nemotron_h", NEMOTRON, mlp_bias=True, use_bias=True)
BAILING = {key: value for key, value in KIMI.items() if not key.startswith("linear_")}
BAILING |= {
    "rope_parameters": rope(),
    "head_dim": 12,
    "num_expert_group": 3,
    "topk_group": 2,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}
HALF = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
case("bailing_hybrid", "BailingHybridForCausalLM", "bailing_hybrid", BAILING, HALF, kda_lower_bound=-2.0)
case("bailing_hybrid without bound", "BailingHybridForCausalLM", "bailing_hybrid", BAILING, HALF, kda_safe_gate=False)

# encoders
case("bert", "BertForMaskedLM", "bert", BERT)
case("bert with another activation", "BertForMaskedLM", "bert", BERT, hidden_act="relu")
case("roberta", "RobertaForMaskedLM", "roberta", BERT, pad_token_id=1, type_vocab_size=1)
case("roberta with another activation", "RobertaForMaskedLM", "roberta", BERT, pad_token_id=1, hidden_act="relu")
case("xlm-roberta", "XLMRobertaForMaskedLM", "xlm-roberta", BERT, pad_token_id=1)
case("roberta_prelayernorm", "RobertaPreLayerNormForMaskedLM", "roberta-prelayernorm", BERT, pad_token_id=1)
case("megatron_bert", "MegatronBertForMaskedLM", "megatron-bert", BERT)
DISTIL = {
    "vocab_size": VOCAB,
    "dim": 48,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 56,
    "max_position_embeddings": POSITIONS,
}
case("distilbert", "DistilBertForMaskedLM", "distilbert", DISTIL, pad_token_id=0)
LABELS = {"num_labels": 3}
case("bert with classes", "BertForSequenceClassification", "bert", BERT, LABELS)
case("bert with two classes", "BertForSequenceClassification", "bert", BERT)
case("roberta with classes", "RobertaForSequenceClassification", "roberta", BERT, LABELS, pad_token_id=1)
case(
    "distilbert with a score", "DistilBertForSequenceClassification", "distilbert", DISTIL, num_labels=1, pad_token_id=0
)
case("albert", "AlbertForMaskedLM", "albert", BERT, FOUR, embedding_size=24, num_hidden_groups=2)
case("albert with one group", "AlbertForMaskedLM", "albert", BERT, FOUR, embedding_size=24)
case("mpnet", "MPNetForMaskedLM", "mpnet", BERT, pad_token_id=1)
PER_KIND = {"rope_parameters": {"full_attention": rope(900.0), "sliding_attention": rope(90.0)}, "local_attention": 6}
MODERN = {**SIZES, **LONG, **FOUR, **PER_KIND, "norm_eps": 2e-3, "cls_token_id": 1, "sep_token_id": 2}
case("modernbert", "ModernBertForMaskedLM", "modernbert", MODERN)
case(
    "modernbert with biases",
    "ModernBertForMaskedLM",
    "modernbert",
    MODERN,
    attention_bias=True,
    mlp_bias=True,
    norm_bias=True,
    classifier_bias=True,
    layer_types=["sliding_attention"] * 4,
)
case("gte", "GteForMaskedLM", "gte", BERT, rope_parameters=rope(), hidden_act="silu")
ULTRA = {"sliding_window": 5, "prediction_head_size": 30, "rope_parameters": PER_KIND["rope_parameters"]}
KINDS_OF_THREE = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
case("ultrabert", "UltrabertForMaskedLM", "ultrabert", LLAMA, ULTRA, KINDS_OF_THREE)
FNET = {key: value for key, value in BERT.items() if key != "num_attention_heads"}
case("fnet", "FNetForMaskedLM", "fnet", FNET, hidden_act="gelu_new")
case("ernie", "ErnieForMaskedLM", "ernie", BERT, use_task_id=True, task_type_vocab_size=5)
case("ernie without tasks", "ErnieForMaskedLM", "ernie", BERT)
case("luke", "LukeForMaskedLM", "luke", BERT, pad_token_id=1, entity_vocab_size=11, entity_emb_size=20)
SPARSE = {"q_groups": 4, "k_groups": 2, "v_groups": 3, "intermediate_groups": 4, "output_groups": 2}
case("squeezebert", "SqueezeBertForMaskedLM", "squeezebert", BERT, SPARSE, embedding_size=48)
THIN = {"embedding_size": 20, "intra_bottleneck_size": 32, "num_feedforward_networks": 3, "hidden_act": "relu"}
case("mobilebert", "MobileBertForMaskedLM", "mobilebert", BERT, THIN)
case("mobilebert of single tokens", "MobileBertForMaskedLM", "mobilebert", BERT, THIN, trigram_input=False)
CONV = {"conv_kernel_size": 5, "hidden_act": "relu"}
case("convbert", "ConvBertForMaskedLM", "convbert", BERT, CONV, embedding_size=48)
case("convbert of narrow embeddings", "ConvBertForMaskedLM", "convbert", BERT, embedding_size=20)
NEARBY = {**BERT, "type_vocab_size": 0, "relative_attention": True, "position_biased_input": False}
NEARBY |= {"pos_att_type": ["c2p", "p2c"], "max_relative_positions": 9}
case("deberta", "DebertaForMaskedLM", "deberta", NEARBY)
case("deberta-v2", "DebertaV2ForMaskedLM", "deberta-v2", NEARBY)
V3 = {"max_relative_positions": 17, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
case("deberta-v2 with buckets", "DebertaV2ForMaskedLM", "deberta-v2", NEARBY, V3)
XLNET = {"vocab_size": VOCAB, "d_model": 48, "n_layer": 3, "n_head": 4, "d_inner": 56, "pad_token_id": 5, **IDS}
case("xlnet", "XLNetLMHeadModel", "xlnet", XLNET, layer_norm_eps=2e-3)
case("longformer", "LongformerForMaskedLM", "longformer", BERT, pad_token_id=1, attention_window=[4, 4, 8])
BLOCKED = {"attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 2, "rescale_embeddings": True}
case("big_bird", "BigBirdForMaskedLM", "big_bird", BERT, BLOCKED)
case("big_bird of all keys", "BigBirdForMaskedLM", "big_bird", BERT, attention_type="original_full", use_bias=False)
LOOKS = {"shape_vocab_size": 17, "shape_embed_dim": 10, "pronunciation_vocab_size": 13, "pronunciation_embed_dim": 14}
case("roc_bert", "RoCBertForMaskedLM", "roc_bert", BERT, LOOKS)

# encoder-decoders
T5 = {
    "vocab_size": VOCAB,
    "d_model": 48,
    "d_kv": 10,
    "d_ff": 56,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
}
BUCKETS = {"relative_attention_num_buckets": 10, "relative_attention_max_distance": 13, "layer_norm_epsilon": 2e-3}
STARTS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
case("t5", "T5ForConditionalGeneration", "t5", T5, BUCKETS, STARTS)
case(
    "t5 v1.1",
    "T5ForConditionalGeneration",
    "t5",
    T5,
    BUCKETS,
    STARTS,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)
case("t5 gated by silu", "T5ForConditionalGeneration", "t5", T5, BUCKETS, STARTS, feed_forward_proj="gated-silu")
case("t5 with another activation", "T5ForConditionalGeneration", "t5", T5, BUCKETS, STARTS, dense_act_fn="silu")
case("umt5", "UMT5ForConditionalGeneration", "umt5", T5, BUCKETS, STARTS)
NARROW = {"encoder_attention_type": "local", "local_radius": 3}
case("longt5", "LongT5ForConditionalGeneration", "longt5", T5, BUCKETS, STARTS, NARROW, feed_forward_proj="gated-gelu")
SUMMED = {**NARROW, "encoder_attention_type": "transient-global", "global_block_size": 4}
case("longt5 with summaries", "LongT5ForConditionalGeneration", "longt5", T5, BUCKETS, STARTS, SUMMED)
BART = {"vocab_size": VOCAB, "d_model": 48, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4}
BART |= {
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 56,
    "decoder_ffn_dim": 60,
    "max_position_embeddings": POSITIONS,
}
BART |= {"pad_token_id": 0, **IDS, "decoder_start_token_id": 2, "forced_eos_token_id": None}
case("bart", "BartForConditionalGeneration", "bart", BART)
case(
    "bart with scaled embeddings",
    "BartForConditionalGeneration",
    "bart",
    BART,
    scale_embedding=True,
    activation_function="relu",
)
case("plbart", "PLBartForConditionalGeneration", "plbart", BART)
case("blenderbot_small", "BlenderbotSmallForConditionalGeneration", "blenderbot-small", BART, scale_embedding=True)
LED = {"attention_window": 8, "max_encoder_position_embeddings": 48, "max_decoder_position_embeddings": POSITIONS}
case("led", "LEDForConditionalGeneration", "led", BART, LED)
case("mvp", "MvpForConditionalGeneration", "mvp", BART)
case("mbart", "MBartForConditionalGeneration", "mbart", BART, scale_embedding=True)
case("m2m_100", "M2M100ForConditionalGeneration", "m2m_100", BART, scale_embedding=True, pad_token_id=3)
case("marian", "MarianMTModel", "marian", BART, scale_embedding=True, activation_function="swish")
APART = {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "decoder_vocab_size": 71}
case("marian with two vocabularies", "MarianMTModel", "marian", BART, APART)
case("pegasus", "PegasusForConditionalGeneration", "pegasus", BART, scale_embedding=True)
FSMT = {key: value for key, value in BART.items() if key != "vocab_size"} | {"pad_token_id": 1, "bos_token_id": 0}
case("fsmt", "FSMTForConditionalGeneration", "fsmt", FSMT, langs=["en", "de"], src_vocab_size=VOCAB, tgt_vocab_size=71)

# Of each kind of model one, for what takes long: it is tried on the others with the slow tests.
EVERYDAY = {"gpt2", "llama", "qwen3_moe", "gemma3", "deepseek_v3", "bert", "t5", "bart"}


def by_cost(cases: list[Case]) -> list[Any]:
    """Cases as parameters of a test: the others than ``EVERYDAY`` are slow."""
    return [pytest.param(each, id=str(each), marks=() if str(each) in EVERYDAY else pytest.mark.slow) for each in cases]
