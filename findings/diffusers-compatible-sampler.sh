#!/usr/bin/env bash
# A sampler that diffusers lists as compatible with Stable Diffusion asks the model about times that it was never trained on.
#
# Guess:  every class in `pipe.scheduler.compatibles` can take the scheduler's place by `Class.from_config(pipe.scheduler.config)`, the documented way to change samplers.
# Fact:   diffusers 0.42.1 lists EDMEulerScheduler for the DDIM of Stable Diffusion. It ignores the trained betas, hands the network ln(sigma)/4 as the time step (from 1.1
#         to -1.6, where the network knows 999 to 0), and takes the answer for one that is scaled as EDM's networks scale it. Even a perfect predictor of noise, told the
#         true noise level, ends forty standard deviations off the picture. A log line says that attributes are ignored, and no more.
# Cost:   a loop over `compatibles`, the usual way to offer a choice of samplers, offers one that draws noise.
# Remedy: leave EDM classes out unless the checkpoint's own sampler is one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'diffusers==0.42.1' 'torch==2.13.0' 'numpy'
"$folder/venv/bin/python" - <<'PY'
import diffusers
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler

diffusers.utils.logging.set_verbosity_error()
trained = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False, set_alpha_to_one=False)
picture = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def draw(sampler, level):
    """Sample with a model that always predicts the noise exactly; give how far the end is from the picture."""
    sampler.set_timesteps(20)
    x = noise * sampler.init_noise_sigma
    for place, t in enumerate(sampler.timesteps):
        sampler.scale_model_input(x, t)
        scale, sigma = level(sampler, place, t)
        x = sampler.step((x - scale * picture) / sigma, t, x, return_dict=False)[0]
    return float((x - picture).abs().mean())


def of_ddim(sampler, place, t):
    alpha = sampler.alphas_cumprod[t]
    return alpha**0.5, (1 - alpha) ** 0.5


compatible = [kind.__name__ for kind in trained.compatibles]
good = draw(DDIMScheduler.from_config(trained.config), of_ddim)
other = EDMEulerScheduler.from_config(trained.config)
bad = draw(other, lambda sampler, place, t: (1, sampler.sigmas[place]))
times = [round(float(t), 2) for t in (other.timesteps[0], other.timesteps[-1])]
print("diffusers", diffusers.__version__)
print("EDMEulerScheduler among the compatible ones:", "EDMEulerScheduler" in compatible)
print("times that it asks the model about:", times, "(trained: 0 to 999)")
print(f"mean distance from the picture at the end, with a perfect model: DDIM {good:.3f}, EDMEuler {bad:.3f} (guess: both near 0)")
raise SystemExit(0 if "EDMEulerScheduler" in compatible and good < 0.05 and bad > 0.3 and max(times) < 2 else 1)
PY
