"""From a wish to a plan: the config read once, steps, sweeps, what they cost, how far they are."""
