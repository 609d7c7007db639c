"""A folder of small real photographs without going online: tiles of three that come with Python packages.

    python examples/photographs.py photos.png          # the tiles, 32 px, go to photos/, and photos.png shows them
    fromnoise train shapes-kl --data ./photos --data.resolution 32 --data.flip --out runs/photos-kl

Two are of scikit-learn (a Chinese temple, a flower), one of matplotlib (Grace Hopper in uniform).  Tiles do not
overlap, so that those that a folder holds out are of parts that nothing is trained on.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_images

SIZE = 32


def photographs() -> dict[str, np.ndarray]:
    """uint8 ``[H, W, 3]`` by name."""
    found = load_sample_images()
    named = {Path(name).stem: image for name, image in zip(found.filenames, found.images, strict=True)}
    portrait = Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    return named | {"portrait": np.asarray(portrait)}


def tiles(image: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Squares of ``size`` pixels side by side, row by row; what is left at the edges is left out."""
    for top in range(0, image.shape[0] - size + 1, size):
        for left in range(0, image.shape[1] - size + 1, size):
            yield image[top : top + size, left : left + size]


def write(folder: Path, images: dict[str, np.ndarray], size: int = SIZE) -> None:
    """The tiles of every image in a sub-folder by its name, which is then their caption."""
    for name, image in images.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, tile in enumerate(tiles(image, size)):
            Image.fromarray(tile).save(folder / name / f"{number:04d}.png")


def main(out: str, size: int = SIZE) -> None:
    images, gap = photographs(), 2
    write(Path(out).with_suffix(""), images, size)
    columns = min(image.shape[1] // size for image in images.values())
    found = [tile for image in images.values() for tile in tiles(image[:, : columns * size], size)]
    sheet = Image.new("RGB", (columns * (size + gap), -(-len(found) // columns) * (size + gap)), "white")
    for i, tile in enumerate(found):
        sheet.paste(Image.fromarray(tile), (i % columns * (size + gap), i // columns * (size + gap)))
    sheet.save(out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "photos.png", *map(int, sys.argv[2:3]))
