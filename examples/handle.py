"""Speak from another Ray job, which does not have this package: dicts and arrays only.

python examples/handle.py [ADDRESS]        (of the cluster; by default the one on this machine)
"""

import sys
import wave

import numpy as np
import ray
from ray import serve

ray.init(address=sys.argv[1] if len(sys.argv) > 1 else "auto", log_to_driver=False)
bark = serve.get_deployment_handle("Ingress", app_name="bark")

clip = bark.generate.remote({"text": "Hello, I am a small Bark.", "seed": 7}).result()
print(f"{clip['id']}: {clip['duration_s']:.2f} s, {clip['finish_reason']}")
with wave.open("hello.wav", "wb") as file:
    file.setparams((1, 2, clip["sample_rate"], 0, "NONE", ""))
    file.writeframes((np.clip(clip["audio"], -1, 1) * 32767).astype("<i2").tobytes())

# What was just said is a voice: its three arrays.
stream = bark.options(stream=True).generate_stream.remote(
    {"text": "Good morning. How are you today?", "seed": 7, "voice": clip["tokens"]}
)
for piece in stream:
    print(f"segment {piece['segment']}: {len(piece['audio'])} samples of “{piece['text']}”")

# Every stage by itself.
stages = {
    name: serve.get_deployment_handle(f"{name.capitalize()}Stage", app_name="bark")
    for name in ("semantic", "coarse", "fine", "codec")
}
found = stages["semantic"].generate.remote({"text": "Thank you.", "seed": 7}).result()
found = stages["coarse"].generate.remote({"semantic": found["semantic"], "seed": 7}).result()
found = stages["fine"].generate.remote({"coarse": found["coarse"], "seed": 7}).result()
sound = stages["codec"].generate.remote({"fine": found["fine"]}).result()
print(f"stage by stage: {len(sound['samples'])} samples")

try:
    bark.generate.remote({"text": "Hello.", "voice": "nobody"}).result()
except LookupError as error:
    print(f"refused: {str(error.cause)[:60]}")
