#!/usr/bin/env bash
# Pyramid Attention Broadcast hands the positive prompt's attention to the negative prompt: guidance loses what it is for.
#
# Guess:  an attention output that is reused comes from an earlier time step of the same prompt. The pipelines say which branch of guidance they are in
#         (`transformer.cache_context("cond")`, `"uncond"`), and the other caches of diffusers keep the two apart.
# Fact:   diffusers 0.42.1 keeps one counter and one output per layer for both branches. Where a pipeline calls its model once for each of them (Wan, CogView4, Qwen-Image,
#         Flux with true guidance), `cross_attention_block_skip_range=2` computes every first call, the positive prompt, and gives its output to every second, the negative one.
#         With the skipping on for all time steps the negative prompt is never read: any two give equal pictures, bit for bit. In a narrower range it counts only outside it.
#         Nothing is logged; the picture looks plausible.
# Cost:   negative prompts and guidance that do little or nothing, taken for a loss of quality by caching.
# Remedy: use it only where both branches go through the model as one batch; elsewhere First Block Cache or another one that asks for the context.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'diffusers==0.42.1' 'transformers==5.23.0' 'torch==2.13.0' 'numpy'
"$folder/venv/bin/python" - <<'PY'
import diffusers
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, PyramidAttentionBroadcastConfig, WanPipeline, WanTransformer3DModel

diffusers.utils.logging.set_verbosity_error()
torch.manual_seed(0)
network = WanTransformer3DModel(
    patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
    text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32,
).eval()
for weight in network.parameters():
    if weight.ndim > 1:
        torch.nn.init.normal_(weight, std=0.3)
vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True])
pipe = WanPipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0), vae=vae, text_encoder=None, tokenizer=None, transformer=network)
pipe.set_progress_bar_config(disable=True)


def noise(seed):
    return torch.Generator().manual_seed(seed)


def prompt(seed):
    return torch.randn(1, 6, 32, generator=noise(seed))


def draw(negative, positive=10):
    return pipe(
        prompt_embeds=prompt(positive), negative_prompt_embeds=prompt(negative), guidance_scale=5.0, num_inference_steps=8,
        height=16, width=16, num_frames=1, generator=noise(1), output_type="latent",
    ).frames


def effect(one, other):
    return float((one - other).abs().mean() / one.abs().mean())


def effects():
    picture = draw(negative=20)
    return effect(picture, draw(negative=30)), effect(picture, draw(negative=20, positive=11))


print("diffusers", diffusers.__version__)
found = {"without a cache": effects()}
for name, steps in {"broadcast, time steps 100 to 800": (100, 800), "broadcast, all time steps": (-1, 1001)}.items():
    network.enable_cache(
        PyramidAttentionBroadcastConfig(
            cross_attention_block_skip_range=2, cross_attention_timestep_skip_range=steps,
            current_timestep_callback=lambda: pipe.current_timestep,
        )
    )
    found[name] = effects()
    network.disable_cache()
for name, (negative, positive) in found.items():
    print(f"{name}: another negative prompt changes the latents by {negative:.1%}, another prompt by {positive:.1%}")
without, some, whole = found.values()
raise SystemExit(0 if without[0] > 0.3 and some[0] < without[0] / 2 and whole[0] == 0 and whole[1] > 0.05 else 1)
PY
