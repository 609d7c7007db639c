"""Low-rank adaptations (LoRA) that others trained, added to our networks and to frozen text encoders.

    places = places_of(net, "FluxTransformer2DModel", config, text)
    merged = apply_lora(places, read_lora("style.safetensors"), 0.7)   # several may be added
    merged.remove()                                                    # and go in any order
"""

from fromnoise.interop.lora.file import Factors, Lora, read_lora
from fromnoise.interop.lora.merge import Merged, apply_lora
from fromnoise.interop.lora.places import NETWORK, Place, encoder_places, place_of, places_of

__all__ = ["NETWORK", "Factors", "Lora", "Merged", "Place", "apply_lora", "encoder_places", "place_of", "places_of",
           "read_lora"]
