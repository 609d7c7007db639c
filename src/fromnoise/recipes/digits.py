"""The default recipe."""

from fromnoise.data.digits import Digits
from fromnoise.nets import UNet
from fromnoise.process import LogNormal, Objective
from fromnoise.recipe import Evaluation, Recipe, Sampling, Training
from fromnoise.text import Trained


def digits() -> Recipe:
    """Handwritten digits from words: 1,797 real scans, the quickest model there is.

    fromnoise train digits --train.threads 1: 99.2 % caption accuracy (real scans 98.8 %) in 62 core-seconds.
    Frechet distance 2.07, where as many real scans of the same classes give 0.95 and of any classes 1.46.
    """
    return Recipe(
        name="digits",
        data=Digits(),
        text=Trained(width=96, depth=1, max_length=32),
        objective=Objective(prediction="velocity", loss="velocity", times=LogNormal()),
        net=UNet(width=32, multipliers=(1, 2, 2)),
        train=Training(steps=800, batch=64, text_dropout=0.05, checkpoint_every=200, preview_every=100),
        sample=Sampling(guidance=1.25),
        evaluate=Evaluation(samples=600),
    )
