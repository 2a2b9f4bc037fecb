#!/usr/bin/env bash
# TaylorSeer finds layers by their names. Where none has such a name it does nothing; in lite mode it then gives zeros for a prediction.
#
# Guess:  `enable_cache(TaylorSeerCacheConfig(…))` of a network with CacheMixin caches its attention, or says that it cannot, as MagCache does. The lite
#         mode skips blocks on most steps, and predicts what they would have given.
# Fact:   diffusers 0.42.1 looks for attention below `transformer_blocks`, `blocks` and two more. The blocks of Kandinsky5Transformer3DModel are called visual_transformer_blocks:
#         nothing is cached, nothing is logged, and `is_cache_enabled` is True. The lite mode skips what has "block" in its name, which these do, and predicts the layer `proj_out`,
#         which Kandinsky 5 calls `out_layer`: on each skipped step the last block gives zeros, and the output is computed from these.
# Cost:   no speed where it was reported as on; in lite mode, pictures that seem to suffer from a cache that is too coarse, when half their steps see no picture at all.
# Remedy: count what runs. Give `cache_identifiers`, as "visual_transformer_blocks.*attention", or take MagCache, which knows these blocks.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'diffusers==0.42.1' 'torch==2.13.0' 'numpy'
"$folder/venv/bin/python" - <<'PY'
import logging

import diffusers
import torch
from diffusers import Kandinsky5Transformer3DModel, TaylorSeerCacheConfig

torch.manual_seed(0)
network = Kandinsky5Transformer3DModel(
    in_visual_dim=4, in_text_dim=16, in_text_dim2=16, time_dim=32, out_visual_dim=4, patch_size=(1, 1, 1), model_dim=32, ff_dim=64,
    num_text_blocks=1, num_visual_blocks=4, axes_dims=(4, 6, 6),
).eval()
for weight in network.parameters():
    if weight.ndim > 1:
        torch.nn.init.normal_(weight, std=0.1)
STEPS = 12
given = {
    "encoder_hidden_states": torch.randn(1, 5, 16), "pooled_projections": torch.randn(1, 16),
    "visual_rope_pos": [torch.arange(1), torch.arange(6), torch.arange(6)], "text_rope_pos": torch.arange(5),
}
start = torch.randn(1, 1, 6, 6, 4)
seen = {"attentions": 0, "zeros": 0}
warnings = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: warnings.append(record.getMessage())
diffusers.utils.logging.add_handler(handler)


def on_attention(*_):
    seen["attentions"] += 1


def on_last_block(_module, _given, output):
    seen["zeros"] += not output.any()


for block in network.visual_transformer_blocks:
    block.self_attention.to_query.register_forward_hook(on_attention)
network.visual_transformer_blocks[-1].register_forward_hook(on_last_block)


@torch.no_grad()
def draw(config=None):
    """Follow the predicted velocity in equal steps; give the end, how many attentions were computed, and on how many steps the last block gave zeros."""
    seen.update(attentions=0, zeros=0)
    x = start
    if config is not None:
        network.enable_cache(config)
        assert network.is_cache_enabled
    for step in range(STEPS):
        with network.cache_context("cond"):
            x = x - network(hidden_states=x, timestep=torch.tensor([1000 * (1 - step / STEPS)]), return_dict=False, **given)[0] / STEPS
    if config is not None:
        network.disable_cache()
    return x, *seen.values()


every = {"cache_interval": 3, "disable_cache_before_step": 3, "taylor_factors_dtype": torch.float32}
plain, attentions, _ = draw()
default, attentions_default, _ = draw(TaylorSeerCacheConfig(**every))
lite, attentions_lite, zeros = draw(TaylorSeerCacheConfig(**every, use_lite_mode=True))
named, attentions_named, zeros_named = draw(TaylorSeerCacheConfig(**every, cache_identifiers=["visual_transformer_blocks.*attention"]))
print("diffusers", diffusers.__version__)
print(f"attentions computed in {STEPS} steps: {attentions} without a cache, {attentions_default} with TaylorSeer, {attentions_lite} in lite mode, {attentions_named} with names given")
print(f"the result: {'the same to the last bit' if torch.equal(default, plain) else 'another'} with TaylorSeer; in lite mode the last block gave zeros on {zeros} steps")
print("warnings:", warnings or "none")
found = torch.equal(default, plain) and attentions_default == attentions and zeros == (attentions - attentions_lite) / 4 > 0
raise SystemExit(0 if found and not warnings and zeros_named == 0 and attentions_named < attentions else 1)
PY
