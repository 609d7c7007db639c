"""Other libraries' models: their settings as our specs, their weights under our names, and back."""
