"""Films as files: written so that everything plays them, read by the times at which their pictures are shown.

    .mp4   H.264, which plays everywhere      .gif   256 colours, which every page and chat shows
    .mkv   FFV1, every pixel exact            .webp  true colours in a picture that moves, every pixel exact

.mp4, .mkv and other video files go through PyAV, the extra ``video``; .gif and .webp through Pillow, which is always
there.
"""

from fromnoise.films.film import CLOSE, PLAYED, Film, FilmFacts, NotAFilm, average_rate, checked_rate, nearest
from fromnoise.films.moving_pictures import durations
from fromnoise.films.names import FASTEST_GIF, PICTURES, SUFFIXES, WRITTEN, checked_path, moving
from fromnoise.films.reading import film_facts, frames_of, read_comment, read_film
from fromnoise.films.sheets import contact_sheet, sheet_enlargement, strip
from fromnoise.films.video import av
from fromnoise.films.writing import check_shown, enlarged, write_film

__all__ = [
    "CLOSE", "FASTEST_GIF", "PICTURES", "PLAYED", "SUFFIXES", "WRITTEN", "Film", "FilmFacts", "NotAFilm", "av",
    "average_rate", "check_shown", "checked_path", "checked_rate", "contact_sheet", "durations", "enlarged",
    "film_facts", "frames_of", "moving", "nearest", "read_comment", "read_film", "sheet_enlargement", "strip",
    "write_film",
]
