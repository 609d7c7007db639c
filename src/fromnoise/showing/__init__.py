"""What the page of a run shows: one file for each kind of model, and what runs of all kinds have."""
