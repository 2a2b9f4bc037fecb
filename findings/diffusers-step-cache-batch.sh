#!/usr/bin/env bash
# With First Block Cache, a picture depends on the pictures that it is drawn with.
#
# Guess:  pictures of one batch do not know of each other. Without a cache that holds: with a generator each, they equal the ones drawn alone but for rounding.
# Fact:   diffusers 0.42.1 decides once for the whole batch whether the blocks after the first are computed or skipped, by a mean over all pictures. Another companion,
#         and another prompt's steps are skipped: the same seed and prompt give another picture, as far from the lone one as the lone one is from the picture without a cache.
# Cost:   pictures that cannot be made again alone; a test of one picture says nothing about a batch, and one restless prompt costs all others their speed.
# Remedy: draw one at a time where a step cache is on, or take the composition of the batch for a part of the recipe.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'diffusers==0.42.1' 'transformers==5.23.0' 'torch==2.13.0' 'numpy'
"$folder/venv/bin/python" - <<'PY'
import diffusers
import torch
from diffusers import AutoencoderKL, FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

diffusers.utils.logging.set_verbosity_error()
torch.manual_seed(0)
network = FluxTransformer2DModel(
    patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 6, 6),
).eval()
for weight in network.parameters():
    if weight.ndim > 1:
        torch.nn.init.normal_(weight, std=0.08)
vae = AutoencoderKL(latent_channels=4, block_out_channels=(8,), norm_num_groups=2, sample_size=32)
pipe = FluxPipeline(
    scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=None, tokenizer=None,
    text_encoder_2=None, tokenizer_2=None, transformer=network,
)
pipe.set_progress_bar_config(disable=True)


def noise(seed):
    return torch.Generator().manual_seed(seed)


def draw(*prompts):
    """Draw one picture a prompt, each with a generator of its own; give the first one's latents."""
    return pipe(
        prompt_embeds=torch.cat([torch.randn(1, 6, 32, generator=noise(p)) for p in prompts]),
        pooled_prompt_embeds=torch.cat([torch.randn(1, 32, generator=noise(p + 50)) for p in prompts]),
        generator=[noise(p + 100) for p in prompts], num_inference_steps=30, height=16, width=16, output_type="latent", guidance_scale=1.0,
    ).images[:1]


def apart(one, other):
    return float((one - other).abs().mean() / other.abs().mean())


companions = (11, 12, 13, 14)
plain = draw(10)
without = [apart(draw(10, other), plain) for other in companions]
network.enable_cache(FirstBlockCacheConfig(threshold=0.5))
alone = draw(10)
cached = [apart(draw(10, other), alone) for other in companions]
print("diffusers", diffusers.__version__)
print("one picture, with each of four companions against alone:")
print("  no cache:         ", ", ".join(f"{part:.7f}" for part in without))
print("  First Block Cache:", ", ".join(f"{part:.7f}" for part in cached), f"(what the cache itself changes: {apart(alone, plain):.7f})")
raise SystemExit(0 if max(without) < 1e-5 and max(cached) > 1e-3 and len({f"{part:.4f}" for part in cached}) > 1 else 1)
PY
