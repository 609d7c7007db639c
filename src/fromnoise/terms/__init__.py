"""What may be added to the loss: terms on the features inside the network, and on what it puts out."""

from fromnoise.terms.alignment import Hub, Projector, Repa, Run, Teacher, alignment, spatially_normal
from fromnoise.terms.contrastive import Contrastive
from fromnoise.terms.direction import Direction
from fromnoise.terms.dispersive import Dispersive
from fromnoise.terms.step import Step, block_number

__all__ = ["Contrastive", "Direction", "Dispersive", "Hub", "Projector", "Repa", "Run", "Step", "Teacher", "alignment",
           "block_number", "spatially_normal"]
