"""Playing a world in the browser: a page, and a server that steps a world for each socket."""
