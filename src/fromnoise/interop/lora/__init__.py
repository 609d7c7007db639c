"""Low-rank adaptations (LoRA) that others trained, added to our networks and to frozen text encoders.

    lora = read_lora("pytorch_lora_weights.safetensors")
    places = {NETWORK: place_of(net, "FluxTransformer2DModel", config), **encoder_places(text)}
    merged = apply_lora(places, lora, 0.7)   # several may be added, in any order
    merged.remove()
"""

from fromnoise.interop.lora.file import Factors, Lora, read_lora
from fromnoise.interop.lora.merge import Merged, apply_lora
from fromnoise.interop.lora.places import NETWORK, Place, encoder_places, place_of

__all__ = ["NETWORK", "Factors", "Lora", "Merged", "Place", "apply_lora", "encoder_places", "place_of", "read_lora"]
