"""Low-rank adaptations (LoRA): those of others added to our networks and to frozen text encoders, and ours written.

    places = places_of(net, "FluxTransformer2DModel", config, text)
    merged = apply_lora(places, read_lora("style.safetensors"), 0.7)   # several may be added
    merged.remove()                                                    # and go in any order
    found = difference(place, before, after, rank=16)                  # of two runs
    write_lora(folder, place, found.layers)
"""

from fromnoise.interop.lora.file import Factors, Lora, fingerprint, lora_file, read_lora
from fromnoise.interop.lora.merge import Merged, apply_lora
from fromnoise.interop.lora.places import NETWORK, Place, encoder_places, own_place, place_of, places_of
from fromnoise.interop.lora.save import Difference, difference, write_lora

__all__ = ["NETWORK", "Difference", "Factors", "Lora", "Merged", "Place", "apply_lora", "difference", "encoder_places",
           "fingerprint", "lora_file", "own_place", "place_of", "places_of", "read_lora", "write_lora"]
