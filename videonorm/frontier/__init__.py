"""Where a GPU's frames can go: how many clips of each length fit, per norm, before anything is trained."""
