"""What a person sees of a run: the page and the model card."""

from fromnoise.studio.card import write_card
from fromnoise.studio.page import FilmFrame, Showcase, page_style, render_page, write_page
from fromnoise.studio.plots import Weightings

__all__ = ["FilmFrame", "Showcase", "Weightings", "page_style", "render_page", "write_card", "write_page"]
