"""What Hydra needs to know of this project. Hydra accepts plugins from this namespace only."""
